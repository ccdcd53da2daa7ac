"""/v1/traces and /v1/diffs"""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from service.http.context import Reader, ReadingDep
from service.http.documented import ACCESS, documented
from service.http.fields import HEX, DigestPath
from service.http.pagination import decode, encode, link_next
from service.traces.schemas import DiffOut, TraceHead, TracePage
from service.traces.store import list_traces
from service.traces.verbs import read_diff, read_trace
from spinal import errors
from spinal.documents.trace import Trace

router = APIRouter(prefix="/v1", tags=["results"])


@router.get("/traces", operation_id="listTraces", responses=documented(*ACCESS))
def listing(
    request: Request,
    response: Response,
    reading: ReadingDep,
    caller: Reader,
    weights_digest: Annotated[str | None, Query(pattern=HEX)] = None,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> TracePage:
    """Traces that the tenant's audits made or shared, newest first."""
    after: str | None = None
    if cursor is not None:
        # The time is for the release before. When a row was stored is told to nobody: another tenant may have done it.
        _, after = decode(cursor, 2)
        after = after.replace("\x00", "")
    with reading.read() as session:
        found = list_traces(session, caller.tenant, weights=weights_digest, after=after, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].created_at, page[-1].digest) if len(found) > limit else None
    link_next(request, response, following)
    return TracePage(items=[TraceHead.of(row) for row in page], next=following)


@router.get(
    "/traces/{digest}",
    operation_id="getTrace",
    response_model=Trace,
    responses={304: {"description": "Not changed"}, **documented(*ACCESS, errors.TraceNotFound)},
)
def read(
    digest: DigestPath,
    reading: ReadingDep,
    caller: Reader,
    if_none_match: Annotated[str | None, Header(max_length=256)] = None,
) -> Response:
    """One depth trace, ``spinal.trace/1``. Immutable."""
    trace = read_trace(reading, caller.tenant, digest)
    headers = {"ETag": f'"{digest}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if if_none_match is not None and headers["ETag"] in [part.strip() for part in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    return JSONResponse(trace.model_dump(mode="json", by_alias=True), headers=headers)


@router.get(
    "/diffs/{reference}...{candidate}",
    operation_id="getDiff",
    responses=documented(*ACCESS, errors.TraceNotFound, errors.FingerprintMismatch, errors.TracesNotComparable),
)
def difference(reference: DigestPath, candidate: DigestPath, reading: ReadingDep, caller: Reader) -> DiffOut:
    """Layer-wise differences of two traces, candidate minus reference."""
    found = read_diff(reading, caller.tenant, reference, candidate)
    return DiffOut(diff=found.diff, comparison=found.comparison)
