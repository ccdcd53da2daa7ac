"""What callers do with policies: store, read, list, delete."""

from dataclasses import dataclass

from service.database.unit_of_work import Ledger, Reads
from service.policies import store
from service.policies.store import StoredPolicy
from spinal.documents.policy import Policy
from spinal.errors import PolicyInUse, PolicyNameTaken, PolicyNotFound

SHIPS = "ships with the service"


@dataclass(frozen=True)
class Kept:
    """A policy that was asked to be stored."""

    policy: StoredPolicy
    fresh: bool
    """False where the tenant had it already."""


def keep_policy(ledger: Ledger, tenant: str, sent: Policy) -> Kept:
    """Store a policy under its name, once. Raises PolicyNameTaken where that names other rules: a name and version
    never come to mean something else."""
    asked = store.stored_form(sent)
    if ships := store.shipped_policies().get(sent.name):
        # Under such a name nothing else passes for a policy.
        return Kept(ships, False)
    known = None
    while known is None:  # it was there and has been deleted between both statements
        with ledger.begin() as session:
            fresh = store.insert_policy(session, tenant, asked)
            known = store.find_policy(session, tenant, sent.name)
    if known.digest != asked.digest:
        raise PolicyNameTaken(
            f"{sent.name} is stored with other rules (digest {known.digest[:12]}, sent {asked.digest[:12]})",
            hint="give it the next version: what a name and version say never changes",
        )
    return Kept(known, fresh)


def read_policy(ledger: Reads, tenant: str, named: str) -> StoredPolicy:
    """The tenant's policy, or one that ships, by name and version or by digest; raises PolicyNotFound."""
    with ledger.read() as session:
        found = store.find_policy(session, tenant, named)
    if found is None:
        raise not_found(named)
    return found


def not_found(named: str) -> PolicyNotFound:
    return PolicyNotFound(f"no policy {named}", hint="list them with GET /v1/policies, or POST it there")


def list_policies(ledger: Reads, tenant: str, *, after: str | None, limit: int) -> list[StoredPolicy]:
    """The tenant's policies by name, on the first page behind those that ship."""
    with ledger.read() as session:
        return store.list_policies(session, tenant, after=after, limit=limit)


def delete_policy(ledger: Ledger, tenant: str, named: str) -> None:
    """Delete a policy by name and version or by digest; raises PolicyNotFound, and PolicyInUse where it ships or an
    audit names it."""
    found = read_policy(ledger, tenant, named)
    if found.builtin:
        raise PolicyInUse(f"{found.name} {SHIPS}", hint="leave it; audits name the policy that they are judged by")
    with ledger.begin() as session:
        gone = store.delete_policy(session, tenant, found.digest)
    if not gone:
        raise PolicyInUse(
            f"audits or series are judged by {found.name}, and name it",
            hint="store the next version and name that; list them with GET /v1/audits?policy=...",
        )
