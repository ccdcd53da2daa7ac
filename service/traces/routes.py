"""/v1/traces and /v1/diffs"""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.datastructures import URL

from service.database.unit_of_work import Reads
from service.http.addresses import asked
from service.http.admission import KeyFirst
from service.http.answers import answer, is_known
from service.http.context import Reader
from service.http.documented import ACCESS, documented
from service.http.fields import HEX, DigestPath
from service.http.pagination import decode, encode, page_answer
from service.traces.schemas import DiffOut, TraceHead, TracePage
from service.traces.store import list_traces
from service.traces.verbs import read_diff, read_trace
from spinal import errors
from spinal.documents.trace import Trace

router = APIRouter(prefix="/v1", tags=["results"], route_class=KeyFirst)


@router.get("/traces", operation_id="listTraces", response_model=TracePage, responses=documented(*ACCESS))
async def listing(
    request: Request,
    reader: Reader,
    weights_digest: Annotated[str | None, Query(pattern=HEX)] = None,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """Traces that the tenant's audits made or shared, newest first."""
    after: str | None = None
    if cursor is not None:
        # The time is for the release before. When a row was stored is told to nobody: another tenant may have done it.
        _, after = decode(cursor, 2)
    return await reader.read(_page, asked(request), weights_digest, after, limit)


def _page(ledger: Reads, tenant: str, url: URL, weights: str | None, after: str | None, limit: int) -> Response:
    with ledger.read() as session:
        found = list_traces(session, tenant, weights=weights, after=after, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].created_at, page[-1].digest) if len(found) > limit else None
    return page_answer(TracePage(items=[TraceHead.of(row) for row in page], next=following), url, following)


@router.get(
    "/traces/{digest}",
    operation_id="getTrace",
    response_model=Trace,
    responses={304: {"description": "Not changed"}, **documented(*ACCESS, errors.TraceNotFound)},
)
async def read(
    digest: DigestPath,
    reader: Reader,
    if_none_match: Annotated[str | None, Header(max_length=256)] = None,
) -> Response:
    """One depth trace, ``spinal.trace/1``. Immutable."""
    return await reader.read(_one, digest, if_none_match)


def _one(ledger: Reads, tenant: str, digest: str, if_none_match: str | None) -> Response:
    trace = read_trace(ledger, tenant, digest)
    headers = {"ETag": f'"{digest}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if is_known(headers["ETag"], if_none_match):
        return Response(status_code=304, headers=headers)
    return answer(trace, headers)


@router.get(
    "/diffs/{reference}...{candidate}",
    operation_id="getDiff",
    response_model=DiffOut,
    responses=documented(*ACCESS, errors.TraceNotFound, errors.FingerprintMismatch, errors.TracesNotComparable),
)
async def difference(reference: DigestPath, candidate: DigestPath, reader: Reader) -> Response:
    """Layer-wise differences of two traces, candidate minus reference."""
    return await reader.read(_difference, reference, candidate)


def _difference(ledger: Reads, tenant: str, reference: str, candidate: str) -> Response:
    found = read_diff(ledger, tenant, reference, candidate)
    return answer(DiffOut(diff=found.diff, comparison=found.comparison))
