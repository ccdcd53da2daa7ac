"""/v1/audits"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.datastructures import URL

from service.audits.resolve import AuditRequest, cached_roles, find_former, resolve_request
from service.audits.schemas import AuditIn, AuditOut, AuditPage, State, ValidationOut
from service.audits.scores import ScoresOut
from service.audits.store import AuditFilter
from service.audits.verbs import (
    AuditView,
    cancel_audit,
    create_audit,
    list_audits,
    read_audit,
    read_files,
    read_result,
    read_scores,
    with_standing,
)
from service.database.unit_of_work import Reads
from service.http.addresses import asked
from service.http.admission import KeyThenJson
from service.http.answers import answer, tagged, unless_known
from service.http.context import InspectorsDep, LedgerDep, Reader, SettingsDep, Writer, require_priority
from service.http.documented import ACCESS, SUBMIT_ERRORS, documented
from service.http.fields import ReportFormat, Timestamp, label_pairs
from service.http.pagination import decode_newest, encode, page_answer
from service.http.reports import FailOn, described, operation_of, page_of, written
from service.http.waits import WaitsDep
from service.runs.lifecycle import TERMINAL
from service.runs.specs import spec_digest
from spinal import errors
from spinal.documents.comparison import Comparison, Outcome
from spinal.documents.trace import Trace
from spinal.report.formats import FORMATS
from spinal.report.formats.format import Format
from spinal.report.formats.format import Reader as Told

router = APIRouter(prefix="/v1/audits", tags=["audits"], route_class=KeyThenJson)

RETRY_AFTER_S = "2"


Key = Annotated[str | None, Header(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


@router.post(
    "",
    operation_id="submitAudit",
    status_code=202,
    response_model=AuditOut,
    responses={
        200: {"model": ValidationOut, "description": "With validate_only: what the request would do"},
        201: {"model": AuditOut, "description": "Every result existed: the audit has already succeeded"},
        **documented(*SUBMIT_ERRORS),
    },
)
def submit(
    body: AuditIn,
    request: Request,
    ledger: LedgerDep,
    settings: SettingsDep,
    inspectors: InspectorsDep,
    caller: Writer,
    idempotency_key: Key = None,
    validate_only: bool = False,
) -> Response:
    """Submit an audit. Everything that a second of looking at files can tell is checked before 202."""
    require_priority(caller, body.priority)
    asked = AuditRequest(
        models=body.models(),
        prompt_set=body.prompt_set,
        profile=body.profile,
        weights_digests=body.weights_digests(),
        signature=body.signature,
        policy=body.policy,
        labels=body.labels,
        priority=body.priority,
        body=body.model_dump(mode="json", exclude_unset=True),
        spelled_out=body.spelled_out(),
    )
    if validate_only:
        resolved = resolve_request(ledger, settings, inspectors, caller.tenant, asked)
        cached = cached_roles(ledger, caller.tenant, resolved)
        needed = len({spec_digest(spec) for role, spec in resolved.specs.items() if not cached[role]})
        former = find_former(ledger, caller.tenant, asked, resolved)
        checked = ValidationOut(
            **resolved.summary,
            former=former,
            cached=cached,
            runs_needed=needed,
            bytes_to_fetch=resolved.missing_bytes if needed else 0,
        )
        return answer(checked)
    accepted = create_audit(
        ledger,
        settings,
        inspectors,
        tenant=caller.tenant,
        request=asked,
        idempotency_key=idempotency_key,
        request_id=request.state.request_id,
        traceparent=request.state.traceparent,
    )
    shown = AuditOut.of(with_standing(ledger, read_audit(ledger, caller.tenant, accepted.audit_id)))
    headers = {"Location": shown.links.self}
    if accepted.status == 202:
        headers["Retry-After"] = RETRY_AFTER_S
    return answer(shown, headers, accepted.status)


@router.get("", operation_id="listAudits", response_model=AuditPage, responses=documented(*ACCESS))
async def listing(
    request: Request,
    reader: Reader,
    state: State | None = None,
    verdict: Outcome | None = None,
    policy: Annotated[
        str | None, Query(max_length=128, pattern=r"^[^\x00]*$", description="Name and version, or digest")
    ] = None,
    model: Annotated[str | None, Query(max_length=1024, pattern=r"^[^\x00]*$")] = None,
    series: Annotated[UUID | None, Query(description="Members of one series")] = None,
    label: Annotated[list[str] | None, Query(description="key:value, all must match", max_length=32)] = None,
    created_after: Timestamp | None = None,
    created_before: Timestamp | None = None,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """Audits of the caller's tenant, newest first."""
    narrowed = AuditFilter(state, verdict, policy, model, series, label_pairs(label), created_after, created_before)
    return await reader.read(_page, asked(request), narrowed, decode_newest(cursor), limit)


def _page(
    ledger: Reads, tenant: str, url: URL, narrowed: AuditFilter, after: tuple[datetime, UUID] | None, limit: int
) -> Response:
    page = list_audits(ledger, tenant, narrowed, after=after, limit=limit)
    following = encode(*page.following) if page.following is not None else None
    return page_answer(AuditPage(items=[AuditOut.of(view) for view in page.views], next=following), url, following)


@router.get(
    "/{audit_id}",
    operation_id="getAudit",
    response_model=AuditOut,
    responses={304: {"description": "Not changed since If-None-Match"}, **documented(*ACCESS, errors.AuditNotFound)},
)
async def read(
    audit_id: UUID,
    request: Request,
    reader: Reader,
    waits: WaitsDep,
    wait: Annotated[float, Query(ge=0, le=3600, description="Seconds to wait for the end")] = 0,
    if_none_match: Annotated[str | None, Header(max_length=256)] = None,
) -> Response:
    """One audit. With ``wait`` the answer comes when the audit has ended, or when the time is over."""
    seconds = min(wait, reader.settings.max_wait_s)
    found = await waits.until(
        request, audit_id, seconds, lambda: reader.read(_ended, audit_id), lambda: reader.read(_one, audit_id)
    )
    return unless_known(found, if_none_match)


def _one(ledger: Reads, tenant: str, audit_id: UUID) -> Response:
    return _shown(with_standing(ledger, read_audit(ledger, tenant, audit_id)))


def _ended(ledger: Reads, tenant: str, audit_id: UUID) -> Response | None:
    """Nothing while the audit is in flight: where it stands is worked out for an answer alone."""
    view = read_audit(ledger, tenant, audit_id)
    return _shown(view) if view.audit.state in TERMINAL else None


def _shown(view: AuditView) -> Response:
    headers = {"Cache-Control": "private, no-cache"}
    if view.audit.state not in TERMINAL:
        headers["Retry-After"] = RETRY_AFTER_S
    return tagged(answer(AuditOut.of(view), headers))


@router.post("/{audit_id}/cancel", operation_id="cancelAudit", responses=documented(*ACCESS, errors.AuditNotFound))
def cancel(audit_id: UUID, ledger: LedgerDep, caller: Writer) -> AuditOut:
    """Cancel an audit. Idempotent: one that has ended is answered as it is."""
    return AuditOut.of(cancel_audit(ledger, caller.tenant, audit_id))


RESULT_ERRORS = (*ACCESS, errors.AuditNotFound, errors.AuditNotFinished, errors.AuditFailed)


@router.get(
    "/{audit_id}/scores",
    operation_id="getScores",
    response_model=ScoresOut,
    responses=documented(*RESULT_ERRORS, errors.AuditHasNoScores),
)
async def scores(audit_id: UUID, reader: Reader) -> Response:
    """What carries the change (``accounts``) beside what computes something else (``localization``), in words
    (``statements``) and in numbers; strength, damage and controls, with intervals and minimum detectable effects."""
    return await reader.read(_scores, audit_id)


def _scores(ledger: Reads, tenant: str, audit_id: UUID) -> Response:
    return answer(ScoresOut.of(audit_id, read_scores(ledger, tenant, audit_id)))


REPORT_ERRORS = (*RESULT_ERRORS, errors.NoVerdict)


@router.get(
    "/{audit_id}/report",
    operation_id="getReport",
    response_class=Response,
    responses={200: {"description": "The report"}, **documented(*REPORT_ERRORS)},
)
async def report(audit_id: UUID, reader: Reader, format: ReportFormat = "json", fail_on: FailOn = "fail") -> Response:
    """The result as a document: JSON, one HTML file, Markdown, or a report for pipelines, which tells its verdict."""
    return await reader.read(_rendered, audit_id, FORMATS[format], fail_on)


def _report_in(made: Format) -> Callable[..., Awaitable[Response]]:
    async def report_in(audit_id: UUID, reader: Reader, fail_on: FailOn = "fail") -> Response:
        return await reader.read(_rendered, audit_id, made, fail_on)

    return report_in


for _made in FORMATS.values():
    router.add_api_route(
        f"/{{audit_id}}/report.{_made.name}",
        _report_in(_made),
        operation_id=operation_of("getReport", _made),
        description=f"The result of an audit as `{_made.name}`, like `.../report?format={_made.name}`.",
        **described(_made, Comparison | Trace, documented(*REPORT_ERRORS)),
    )


def _rendered(ledger: Reads, tenant: str, audit_id: UUID, made: Format, fail_on: Literal["fail", "warn"]) -> Response:
    found = read_result(ledger, tenant, audit_id)
    files = {} if made.files_of is None else read_files(ledger, made.files_of(found))
    told = Told(fail_on, {"report": page_of("audits", audit_id)}, files)
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    return written(found, made, told, headers)
