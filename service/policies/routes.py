"""/v1/policies"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.datastructures import URL

from service.database.unit_of_work import Reads
from service.http.addresses import asked, local
from service.http.admission import KeyFirst
from service.http.answers import answer
from service.http.context import LedgerDep, Reader, Writer
from service.http.documented import ACCESS, documented
from service.http.fields import DigestPath
from service.http.pagination import decode, encode, page_answer
from service.policies.schemas import PolicyHead, PolicyOut, PolicyPage
from service.policies.sent import BODY, Sent, body_sent
from service.policies.store import shipped_policies
from service.policies.verbs import delete_policy, keep_policy, list_policies, read_policy
from spinal import errors

router = APIRouter(prefix="/v1/policies", tags=["catalog"], route_class=KeyFirst)

NamePart = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Its name without the version")]
VersionPart = Annotated[str, Path(pattern=r"^[1-9][0-9]{0,5}$", description="Its version")]
CACHING = {"Cache-Control": "private, no-cache"}
"""Content under a digest never changes, and may be deleted."""


@router.post(
    "",
    operation_id="storePolicy",
    status_code=201,
    response_model=PolicyOut,
    responses={
        200: {"model": PolicyOut, "description": "The same policy was there"},
        **documented(
            *ACCESS,
            errors.BodyMalformed,
            errors.BodyTooLarge,
            errors.MediaTypeUnsupported,
            errors.DocumentInvalid,
            errors.PolicyNameTaken,
        ),
    },
    openapi_extra=BODY,
)
def store(sent: Annotated[Sent, Depends(body_sent)], ledger: LedgerDep, caller: Writer) -> Response:
    """Store a policy (JSON or YAML) under its name and version, for use as ``policy`` of an audit. The same one again
    changes nothing; other rules under the same name and version are refused."""
    kept = keep_policy(ledger, caller.tenant, sent.policy())
    headers = {"Location": local(f"/v1/policies/{kept.policy.name}")}
    return answer(PolicyOut.of(kept.policy), headers, 201 if kept.fresh else 200)


@router.get("", operation_id="listPolicies", response_model=PolicyPage, responses=documented(*ACCESS))
async def listing(
    request: Request,
    reader: Reader,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """Policies that ship, then those of the caller's tenant by name."""
    after = decode(cursor, 1)[0] if cursor is not None else None
    return await reader.read(_page, asked(request), after, limit)


def _page(ledger: Reads, tenant: str, url: URL, after: str | None, limit: int) -> Response:
    found = list_policies(ledger, tenant, after=after, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].name) if len(found) > limit else None
    shown = [*(shipped_policies().values() if after is None else ()), *page]
    return page_answer(PolicyPage(items=[PolicyHead.of(policy) for policy in shown], next=following), url, following)


@router.get(
    "/{digest}",
    operation_id="getPolicyByDigest",
    response_model=PolicyOut,
    responses=documented(*ACCESS, errors.PolicyNotFound),
)
async def by_digest(digest: DigestPath, reader: Reader) -> Response:
    """A policy with its document, by its digest."""
    return await reader.read(_one, digest)


@router.get(
    "/{name}/{version}",
    operation_id="getPolicy",
    response_model=PolicyOut,
    responses=documented(*ACCESS, errors.PolicyNotFound),
)
async def by_name(name: NamePart, version: VersionPart, reader: Reader) -> Response:
    """A policy with its document, by its name and version."""
    return await reader.read(_one, f"{name}/{version}")


def _one(ledger: Reads, tenant: str, named: str) -> Response:
    return answer(PolicyOut.of(read_policy(ledger, tenant, named)), CACHING)


GONE = {204: {"description": "It is gone"}, **documented(*ACCESS, errors.PolicyNotFound, errors.PolicyInUse)}


@router.delete("/{digest}", operation_id="deletePolicyByDigest", status_code=204, responses=GONE)
def delete_by_digest(digest: DigestPath, ledger: LedgerDep, caller: Writer) -> Response:
    """Delete a policy that no audit names."""
    delete_policy(ledger, caller.tenant, digest)
    return Response(status_code=204)


@router.delete("/{name}/{version}", operation_id="deletePolicy", status_code=204, responses=GONE)
def delete_by_name(name: NamePart, version: VersionPart, ledger: LedgerDep, caller: Writer) -> Response:
    """Delete a policy that no audit names."""
    delete_policy(ledger, caller.tenant, f"{name}/{version}")
    return Response(status_code=204)
