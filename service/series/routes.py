"""/v1/series"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.datastructures import URL

from service.audits.routes import RETRY_AFTER_S, Key
from service.database.unit_of_work import Reads
from service.http.addresses import asked
from service.http.admission import KeyThenJson
from service.http.answers import answer, tagged, unless_known
from service.http.context import InspectorsDep, LedgerDep, Reader, SettingsDep, Writer, require_priority
from service.http.documented import ACCESS, SUBMIT_ERRORS, documented
from service.http.fields import ReportFormat, label_pairs
from service.http.pagination import decode_newest, encode, page_answer
from service.http.reports import FailOn, described, operation_of, page_of, written
from service.http.waits import WaitsDep
from service.keys.store import PRIORITY, Caller
from service.series.members import Asker
from service.series.schemas import MemberOut, MembersIn, MembersOut, SeriesIn, SeriesOut, SeriesPageOut
from service.series.store import SeriesFilter
from service.series.verbs import (
    SeriesRequest,
    add_members,
    cancel_series,
    close_series,
    create_series,
    is_going,
    list_series,
    read_document,
    read_series,
    view_series,
    with_standing,
)
from spinal import errors
from spinal.documents.series import Series, Status
from spinal.report.formats import FORMATS
from spinal.report.formats.format import Format
from spinal.report.formats.format import Reader as Told

router = APIRouter(prefix="/v1/series", tags=["series"], route_class=KeyThenJson)

APPEND_ERRORS = (
    *SUBMIT_ERRORS, errors.SeriesStepTaken, errors.SeriesFull, errors.SeriesFolderInvalid, errors.SeriesClosed,
    errors.SeriesReferenceChanged,
)  # fmt: skip
READ_ERRORS = (*ACCESS, errors.SeriesNotFound, errors.NotReady)


@router.post(
    "", operation_id="createSeries", status_code=201, response_model=SeriesOut, responses=documented(*APPEND_ERRORS)
)
def create(
    body: SeriesIn,
    request: Request,
    ledger: LedgerDep,
    settings: SettingsDep,
    inspectors: InspectorsDep,
    caller: Writer,
    idempotency_key: Key = None,
) -> Response:
    """Begin a series. Its first members are looked at before anything is written. Sent again under its key, the request
    gives the same series, with the members that it still lacks."""
    require_priority(caller, body.priority)
    asked = SeriesRequest(
        reference=body.reference,
        prompt_set=body.prompt_set,
        profile=body.profile,
        control=body.control,
        policy=body.policy,
        description=body.description,
        labels=body.labels,
        settings=body.settings.model_dump(mode="json"),
        priority=body.priority,
        members=tuple(member.request() for member in body.members),
        folder=body.folder,
        body=body.model_dump(mode="json", exclude_unset=True),
    )
    series_id = create_series(
        ledger, settings, inspectors, _asker(request, caller), asked, idempotency_key=idempotency_key
    )
    shown = SeriesOut.of(view_series(ledger, caller.tenant, series_id))
    return answer(shown, {"Location": shown.links.self}, 201)


def _asker(request: Request, caller: Caller) -> Asker:
    return Asker(caller.tenant, request.state.request_id, request.state.traceparent, caller.has(PRIORITY))


@router.post(
    "/{series_id}/members",
    operation_id="addMembers",
    status_code=202,
    response_model=MembersOut,
    responses={
        200: {"model": MembersOut, "description": "The series had all of them already"},
        **documented(*APPEND_ERRORS, errors.SeriesNotFound),
    },
)
def append(
    series_id: UUID,
    body: MembersIn,
    request: Request,
    ledger: LedgerDep,
    settings: SettingsDep,
    inspectors: InspectorsDep,
    caller: Writer,
) -> Response:
    """Append checkpoints, in any order. Each becomes an audit; the same step and model again is the same member."""
    members = [member.request() for member in body.members]
    asker = _asker(request, caller)
    added = add_members(ledger, settings, inspectors, asker, series_id, members, body.folder)
    shown = MembersOut(items=[MemberOut.of(each) for each in added])
    return answer(shown, status=202 if any(each.fresh for each in added) else 200)


@router.get("", operation_id="listSeries", response_model=SeriesPageOut, responses=documented(*ACCESS))
async def listing(
    request: Request,
    reader: Reader,
    status: Status | None = None,
    reference: Annotated[str | None, Query(max_length=1024, pattern=r"^[^\x00]*$", description="As requested")] = None,
    closed: bool | None = None,
    label: Annotated[list[str] | None, Query(description="key:value, all must match", max_length=32)] = None,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """Series of the caller's tenant, newest first, with the status that was worked out last."""
    narrowed = SeriesFilter(status, reference, closed, label_pairs(label))
    return await reader.read(_page, asked(request), narrowed, decode_newest(cursor), limit)


def _page(
    ledger: Reads, tenant: str, url: URL, narrowed: SeriesFilter, after: tuple[datetime, UUID] | None, limit: int
) -> Response:
    page = list_series(ledger, tenant, narrowed, after=after, limit=limit)
    following = encode(*page.following) if page.following is not None else None
    shown = SeriesPageOut(items=[SeriesOut.of(view) for view in page.views], next=following)
    return page_answer(shown, url, following)


@router.get(
    "/{series_id}",
    operation_id="getSeries",
    response_model=SeriesOut,
    responses={304: {"description": "Not changed since If-None-Match"}, **documented(*READ_ERRORS)},
)
async def read(
    series_id: UUID,
    request: Request,
    reader: Reader,
    waits: WaitsDep,
    wait: Annotated[
        float, Query(ge=0, le=3600, description="Seconds to wait until every member that there is has ended")
    ] = 0,
    if_none_match: Annotated[str | None, Header(max_length=256)] = None,
) -> Response:
    """One series. With ``wait`` the answer comes when no member is going any more, or when the time is over."""
    seconds = min(wait, reader.settings.max_wait_s)
    found = await waits.until(
        request, series_id, seconds, lambda: reader.read(_ended, series_id), lambda: reader.read(_one, series_id)
    )
    return unless_known(found, if_none_match)


def _ended(ledger: Reads, tenant: str, series_id: UUID) -> Response | None:
    """Nothing while a member is going: the document is read for an answer alone."""
    return None if is_going(read_series(ledger, tenant, series_id)) else _one(ledger, tenant, series_id)


def _one(ledger: Reads, tenant: str, series_id: UUID) -> Response:
    view = with_standing(ledger, view_series(ledger, tenant, series_id))
    headers = {"Cache-Control": "private, no-cache"}
    if is_going(view.series):
        headers["Retry-After"] = RETRY_AFTER_S
    return tagged(answer(SeriesOut.of(view), headers))


@router.get(
    "/{series_id}/document",
    operation_id="getSeriesDocument",
    response_model=Series,
    responses={304: {"description": "Not changed since If-None-Match"}, **documented(*READ_ERRORS)},
)
async def document(
    series_id: UUID, reader: Reader, if_none_match: Annotated[str | None, Header(max_length=256)] = None
) -> Response:
    """``spinal.series/1``: what is known of the run by now, with members that wait; it changes until the series is
    closed and every member has ended."""
    return unless_known(await reader.read(_document, series_id), if_none_match)


def _document(ledger: Reads, tenant: str, series_id: UUID) -> Response:
    return tagged(answer(read_document(ledger, tenant, series_id), {"Cache-Control": "private, no-cache"}))


@router.get(
    "/{series_id}/report",
    operation_id="getSeriesReport",
    response_class=Response,
    responses={200: {"description": "The report"}, **documented(*READ_ERRORS)},
)
async def report(series_id: UUID, reader: Reader, format: ReportFormat = "json", fail_on: FailOn = "fail") -> Response:
    """What is known of the run by now as a document: JSON, one HTML file with the reports of its members linked,
    Markdown, or a report for pipelines."""
    return await reader.read(_rendered, series_id, FORMATS[format], fail_on)


def _report_in(made: Format) -> Callable[..., Awaitable[Response]]:
    async def report_in(series_id: UUID, reader: Reader, fail_on: FailOn = "fail") -> Response:
        return await reader.read(_rendered, series_id, made, fail_on)

    return report_in


for _made in FORMATS.values():
    router.add_api_route(
        f"/{{series_id}}/report.{_made.name}",
        _report_in(_made),
        operation_id=operation_of("getSeriesReport", _made),
        description=f"What is known of the run as `{_made.name}`, like `.../report?format={_made.name}`.",
        **described(_made, Series, documented(*READ_ERRORS)),
    )


def _rendered(ledger: Reads, tenant: str, series_id: UUID, made: Format, fail_on: Literal["fail", "warn"]) -> Response:
    found = read_document(ledger, tenant, series_id)
    links = {"report": page_of("series", series_id)} | {
        f"step {member.step}": page_of("audits", member.audit)
        for member in found.members
        if member.audit is not None and member.state == "measured"
    }
    # Unlike that of an audit it may be another one tomorrow.
    return written(found, made, Told(fail_on, links), {"Cache-Control": "private, no-cache"})


@router.post(
    "/{series_id}/close",
    operation_id="closeSeries",
    response_model=SeriesOut,
    responses=documented(*READ_ERRORS),
)
def close(series_id: UUID, ledger: LedgerDep, caller: Writer) -> Response:
    """Say that no member comes any more. Idempotent; members that are going go on."""
    return answer(SeriesOut.of(close_series(ledger, caller.tenant, series_id)))


@router.post(
    "/{series_id}/cancel",
    operation_id="cancelSeries",
    response_model=SeriesOut,
    responses=documented(*READ_ERRORS),
)
def cancel(series_id: UUID, ledger: LedgerDep, caller: Writer) -> Response:
    """Close a series and cancel its members that are going. Idempotent: what has ended stays."""
    return answer(SeriesOut.of(cancel_series(ledger, caller.tenant, series_id)))
