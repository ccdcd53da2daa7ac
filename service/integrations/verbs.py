"""What comes of an event: it is verified, kept, and makes versions due. What lists show of them."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger, Reads
from service.integrations import store
from service.integrations.adapters import adapter_of
from service.integrations.adapters.base import Headers, Sign, Told, refuse
from service.integrations.store import Event, Key, Standing, StoredVersion
from service.registries import Registry
from service.settings import Settings
from spinal.checkpoints.reading import Unreadable, parse_json
from spinal.errors import (
    BodyMalformed,
    NotReady,
    RegistryNotFound,
    RequestInvalid,
    SignatureInvalid,
    Unauthorized,
    UsageError,
)
from spinal.errors.faults import shown

log = structlog.get_logger(__name__)
MOST_VALUES = 20_000
MOST_SIGNS = 1000
"""Of one event."""
ACCEPTED, IGNORED, TEST = "accepted", "ignored", "test"
NO_RULE = "no rule is about it"


@dataclass(frozen=True)
class Chosen:
    model: str
    version: str
    rule: str
    fresh: bool
    """False where an audit of it was asked for before."""


@dataclass(frozen=True)
class Outcome:
    """What became of an event, now or when it first came."""

    registry: str
    delivery: str
    type: str
    outcome: str
    reason: str | None
    versions: tuple[Chosen, ...]
    repeated: bool


def find_sender(
    settings: Settings, kind: str, named: str | None, headers: Headers, body: bytes, *, now: float | None = None
) -> tuple[str, Registry]:
    """The registry whose secret verifies a request. Raises SignatureInvalid, RegistryNotFound, NotReady."""
    known = settings.registries.of_kind(kind)
    if not known:
        raise RegistryNotFound(
            f"no registry of kind {kind} is set up here", hint="an operator sets it up: docs/registries.md"
        )
    refusal: SignatureInvalid = refuse("wrong", "no secret of this registry made the signature", "check its secret")
    unreadable = False
    for name, registry in known.items():
        if named not in (None, name):
            continue
        try:
            adapter_of(kind).verify(headers, body, registry.secrets(), time.time() if now is None else now)
            return name, registry
        except SignatureInvalid as error:
            # One that is stale was signed with this one's secret: the others have no more to say.
            if error.extra["reason"] == "stale":
                raise
            refusal = error
        except UsageError as error:
            # Another one may be meant.
            log.error("secret of a registry", registry=name, error=error.detail)
            unreadable = True
    if unreadable and refusal.extra["reason"] == "wrong":
        raise NotReady("a registry's secret cannot be read", hint="an operator looks into the log")
    raise refusal


def receive(ledger: Ledger, name: str, registry: Registry, headers: Headers, body: bytes) -> Outcome:
    """Keep an event of a registry that was verified, and what its rules make of it, in one transaction; the answer once
    given where it was kept before. Raises BodyMalformed, RequestInvalid, RegistryNotFound."""
    told = _read(registry, headers, body)
    try:
        return _keep(ledger, name, registry, told, body)
    except Unauthorized:
        raise RegistryNotFound("the data of this registry's tenant are deleted", hint="an operator knows why") from None


def _keep(ledger: Ledger, name: str, registry: Registry, told: Told, body: bytes) -> Outcome:
    event = Event(name, told.delivery, registry.tenant, sha256(body).hexdigest(), told.type)
    with ledger.begin() as session:
        if not store.add_event(session, event):
            former = store.find_event(session, name, told.delivery)
            if former.body_digest != event.body_digest and not told.by_content:
                raise RequestInvalid(
                    f"another event came before under the id {told.delivery}", hint="give each event an id of its own"
                )
            # Where nothing but its content says which event it is, nobody can tell one that is sent again from one that
            # is told anew: what was refused is looked at again. Whoever has an id sends another one for that.
            again = choose(session, name, registry, told.signs, told.type) if told.by_content else []
            if not any(each.fresh for each in again):
                return _outcome(name, told.delivery, former, repeated=True)
            chosen = again
        else:
            chosen = choose(session, name, registry, told.signs, told.type)
        if told.test:
            outcome, reason = TEST, None
        elif chosen:
            outcome, reason = ACCEPTED, None
        else:
            outcome, reason = IGNORED, told.ignored or NO_RULE
        detail = {"reason": reason, "versions": [vars(each) for each in chosen]}
        store.set_outcome(session, name, told.delivery, outcome, detail)
    log.info("event received", registry=name, type=told.type, outcome=outcome, versions=len(chosen))
    return Outcome(name, told.delivery, told.type, outcome, reason, tuple(chosen), repeated=False)


def choose(
    session: Session,
    name: str,
    registry: Registry,
    signs: Iterable[Sign],
    by: str,
    *,
    is_past: Callable[[str, str], bool] = lambda _rule, _model: False,
    known: Collection[tuple[str, str, str]] = (),
) -> list[Chosen]:
    """Make the versions due that rules choose, but for those that are ``known`` (model, version, rule). What is past of
    a rule and a model is only noted. In one order, so that two who choose the same do not wait for each other in a
    circle."""
    wanted = {
        (sign.model, sign.version, rule.name): sign
        for sign in signs
        for rule in registry.rules
        if sign.is_chosen_by(rule) and (sign.model, sign.version, rule.name) not in known
    }
    chosen = []
    for (model, version, rule), sign in sorted(wanted.items(), key=lambda each: each[0]):
        detail = {"by": by, "sign": sign.by, "name": sign.name}
        key = Key(name, model, version, rule)
        fresh = store.add_version(session, key, registry.tenant, detail, past=is_past(rule, model))
        chosen.append(Chosen(model, version, rule, fresh))
    return chosen


def _read(registry: Registry, headers: Headers, body: bytes) -> Told:
    try:
        document = parse_json(body, "the body", most_values=MOST_VALUES)
    except Unreadable as error:
        raise BodyMalformed(str(error), hint="send the event as the registry words it") from None
    if not isinstance(document, dict):
        raise RequestInvalid("/: not an object", hint="send the event as the registry words it")
    told = adapter_of(registry.kind).read(headers, body, document)
    if len(told.signs) > MOST_SIGNS:
        raise RequestInvalid(f"/: one event is about more than {MOST_SIGNS} things", hint="send several events")
    return told


def _outcome(name: str, delivery: str, row: Any, *, repeated: bool) -> Outcome:
    versions = tuple(Chosen(**each) for each in row.detail.get("versions", ()))
    return Outcome(name, delivery, row.type, row.outcome, row.detail.get("reason"), versions, repeated)


@dataclass(frozen=True)
class RegistryView:
    """A registry as callers of its tenant see it."""

    name: str
    registry: Registry
    standing: Standing


def list_registries(
    ledger: Reads, tenant: str, known: Mapping[str, Registry], *, after: str | None, limit: int
) -> list[RegistryView]:
    """Those of the tenant, by name, behind ``after``."""
    names = [name for name in sorted(known) if after is None or name > after][:limit]
    with ledger.read() as session:
        return [RegistryView(name, known[name], store.standing_of(session, tenant, name)) for name in names]


def list_versions(
    ledger: Reads,
    tenant: str,
    known: Mapping[str, Registry],
    name: str,
    state: str | None,
    *,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[StoredVersion]:
    """Versions of a registry of the tenant, newest first. Raises RegistryNotFound."""
    if name not in known:
        raise RegistryNotFound(f"no registry {shown(name)!r}", hint="list them with GET /v1/integrations")
    with ledger.read() as session:
        return store.list_versions(session, tenant, name, state=state, after=after, limit=limit)
