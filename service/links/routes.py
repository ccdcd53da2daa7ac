"""/v1/audits/{id}/links and /v1/series/{id}/links make links; /r/{token} is what they open."""

from datetime import timedelta
from uuid import UUID

from fastapi import APIRouter, Request, Response

from service.database.unit_of_work import Reading, Reads
from service.http.addresses import shared
from service.http.admission import KeyThenJson
from service.http.answers import answer
from service.http.context import LedgerDep, SettingsDep, Writer, in_a_turn
from service.http.documented import ACCESS, documented
from service.http.reports import written
from service.links.reports import reported
from service.links.schemas import LinkIn, LinkOut, LinksRevoked
from service.links.verbs import linked_path, make_link, open_link, revoke_links
from service.pages.render import PRIVATE
from service.pages.shown import plain_page
from service.platform.links import Kind
from service.settings import Settings
from spinal import errors
from spinal.errors import AuditFailed, AuditNotFinished, SpinalError
from spinal.report.formats.html import HTML

router = APIRouter(prefix="/v1", tags=["links"], route_class=KeyThenJson)
opened = APIRouter(include_in_schema=False)
MADE = (
    *ACCESS, errors.LinksUnavailable, errors.BodyMalformed, errors.BodyTooLarge, errors.MediaTypeUnsupported,
)  # fmt: skip


@router.post(
    "/audits/{audit_id}/links",
    operation_id="linkReport",
    status_code=201,
    response_model=LinkOut,
    responses=documented(*MADE, errors.AuditNotFound),
)
def link_audit(audit_id: UUID, body: LinkIn, ledger: LedgerDep, settings: SettingsDep, caller: Writer) -> Response:
    """Make a link that opens the HTML report of this audit in a browser, without a key, until it ends. Whoever has the
    link reads the report, and nothing else. It can be made before the audit has ended."""
    return _made(ledger, caller.tenant, settings, "audit", audit_id, body)


@router.post(
    "/series/{series_id}/links",
    operation_id="linkSeriesReport",
    status_code=201,
    response_model=LinkOut,
    responses=documented(*MADE, errors.SeriesNotFound),
)
def link_series(series_id: UUID, body: LinkIn, ledger: LedgerDep, settings: SettingsDep, caller: Writer) -> Response:
    """Make a link that opens the HTML report of this series, and from there those of its checkpoints, in a browser,
    without a key, until it ends. It shows what is known of the run when it is opened."""
    return _made(ledger, caller.tenant, settings, "series", series_id, body)


def _made(ledger: Reads, tenant: str, settings: Settings, kind: Kind, subject: UUID, body: LinkIn) -> Response:
    made = make_link(ledger, tenant, settings, kind, subject, timedelta(seconds=body.expires_in))
    return answer(LinkOut(url=shared(made.path), expires_at=made.ends_at), {"Cache-Control": "no-store"}, 201)


@router.post("/links/revoke", operation_id="revokeLinks", response_model=LinksRevoked, responses=documented(*ACCESS))
def revoke(ledger: LedgerDep, caller: Writer) -> Response:
    """End every link that was made to reports of the caller's tenant. Links that are made afterwards work."""
    return answer(LinksRevoked(revoked_at=revoke_links(ledger, caller.tenant)))


@opened.get("/r/{token}")
async def open_report(token: str, request: Request) -> Response:
    """The report behind a link, or one plain page."""
    try:
        return await in_a_turn(request, lambda ledger: _opened(ledger, request, token))
    except (AuditNotFinished, AuditFailed) as error:
        # Nothing of why: a link gives the report, and there is none.
        says = "this audit has not ended yet" if isinstance(error, AuditNotFinished) else "this audit has no report"
        return plain_page(type(error)(says, hint="open the link again later" if "yet" in says else None))
    except SpinalError as error:
        return plain_page(error)


def _opened(ledger: Reading, request: Request, token: str) -> Response:
    shared_state = request.app.state
    settings: Settings = shared_state.settings
    found = open_link(ledger, settings, token)
    shared_state.request_limits.take_by_link(found.tenant)

    def address(kind: Kind, subject: UUID) -> str | None:
        path = linked_path(settings, found, kind, subject)
        return None if path is None else shared(path)

    document, reader = reported(ledger, found.tenant, found.signed.kind, found.signed.id, address)
    return written(document, HTML, reader, PRIVATE)
