"""/ and /ui: pages for people. Each is read through the verbs that the API is read through."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.security import HTTPAuthorizationCredentials

from service.audits.schemas import AuditOut, State
from service.audits.store import AuditFilter
from service.audits.verbs import AuditsPage, AuditView, list_audits, read_audit, read_result, with_standing
from service.database.unit_of_work import Reads
from service.http.addresses import local, shared
from service.http.context import Asker, by_key
from service.http.pagination import decode_newest, encode
from service.http.reports import page_of, written
from service.http.waits import WaitsDep
from service.links.reports import reported
from service.links.verbs import Link, make_link
from service.pages.content import Side, compared, facts_of, facts_of_series, members_of, rules_of
from service.pages.render import PRIVATE, page
from service.pages.sessions import session_of
from service.pages.shown import PageRoute, sign_in
from service.pages.visitors import (
    FORM,
    asker,
    forget,
    form_cookie,
    keep,
    keep_session,
    led_to,
    read_form,
    token_of,
)
from service.platform.links import Kind, link_key
from service.runs.lifecycle import IN_FLIGHT, TERMINAL
from service.series.schemas import SeriesOut
from service.series.store import SeriesFilter
from service.series.verbs import list_series, read_document, view_series
from service.series.verbs import with_standing as with_place
from spinal.documents.comparison import Comparison, Outcome
from spinal.errors import Forbidden, RequestInvalid, Unauthorized
from spinal.report.content.lead import sentence
from spinal.report.content.series.lead import OUTCOMES, word
from spinal.report.formats.html import HTML

router = APIRouter(include_in_schema=False, route_class=PageRoute)
A_PAGE = 50
DAYS = (1, 7, 30, 90)
LONGEST_WAIT_S = 20.0
Model = Annotated[str, Query(max_length=1024, pattern=r"^[^\x00]*$")]
Cursor = Annotated[str | None, Query(max_length=512)]


@dataclass(frozen=True)
class Chosen:
    """What a list of audits is narrowed to."""

    state: str
    verdict: str
    model: str
    series: UUID | None

    @property
    def any(self) -> bool:
        return bool(self.state or self.verdict or self.model or self.series)


@router.get("/")
async def audits(
    request: Request, state: str = "", verdict: str = "", model: Model = "", series: UUID | None = None,
    cursor: Cursor = None,
) -> Response:  # fmt: skip
    """The tenant's audits, newest first; the page to sign in for whoever has not."""
    chosen = Chosen(_one_of(state, State), _one_of(verdict, Outcome), model.strip(), series)
    narrowed = AuditFilter(chosen.state or None, chosen.verdict or None, model=chosen.model or None, series=series)
    visitor = asker(request)
    try:
        found: AuditsPage = await visitor.read(list_audits, narrowed, after=decode_newest(cursor), limit=A_PAGE)
    except Unauthorized:
        return sign_in(request)
    asked = {name: str(value) for name, value in vars(chosen).items() if value}
    return _private(
        request, visitor, "audits", items=[AuditOut.of(view) for view in found.views], chosen=chosen,
        states=get_args(State), verdicts=get_args(Outcome),
        **_turning("/", asked, cursor, found.following),
    )  # fmt: skip


@router.get("/ui/series")
async def all_series(request: Request, cursor: Cursor = None) -> Response:
    """The tenant's series, newest first."""
    visitor = asker(request)
    found = await visitor.read(list_series, SeriesFilter(), after=decode_newest(cursor), limit=A_PAGE)
    words = {status: word(status) for status in OUTCOMES}
    return _private(
        request, visitor, "all_series", items=[SeriesOut.of(view) for view in found.views], outcomes=OUTCOMES,
        words=words, **_turning("/ui/series", {}, cursor, found.following),
    )  # fmt: skip


@router.post("/ui/sign-in")
async def begin(request: Request) -> Response:
    """Begin a session for whoever pastes a key that may read."""
    form = await read_form(request, signed_in=False)
    following = led_to(form.get("next"))
    settings = request.app.state.settings
    if settings.auth == "disabled":
        return RedirectResponse(local(following), 303, headers=PRIVATE)
    sent = HTTPAuthorizationCredentials(scheme="Bearer", credentials=form.get("key", "").strip())
    visitor = Asker(request, by_key(request.app.state, sent))
    try:
        await visitor.read(lambda _ledger, _tenant: None)
    except Unauthorized as error:
        return sign_in(request, status=401, says=f"{error.detail[:1].upper()}{error.detail[1:]}.", following=following)
    except Forbidden:
        return sign_in(request, status=403, says="This key may not read.", following=following)
    answer = RedirectResponse(local(following), 303, headers=PRIVATE)
    keep_session(request, answer, session_of(settings, visitor.caller))
    return answer


@router.post("/ui/sign-out")
async def end(request: Request) -> Response:
    """End the session of this browser."""
    await read_form(request)
    answer = RedirectResponse(local("/"), 303, headers=PRIVATE)
    forget(request, answer)
    return answer


@router.get("/ui/audits/{audit_id}")
async def audit(
    request: Request, waits: WaitsDep, audit_id: UUID, wait: Annotated[float, Query(ge=0, le=3600)] = 0
) -> Response:
    """One audit: its progress while it is going, and what came of it. With ``wait`` the answer comes when it has ended,
    or when the time is over."""
    visitor = asker(request)
    seconds = min(wait, LONGEST_WAIT_S, visitor.settings.max_wait_s)
    view = await waits.until(
        request, audit_id, seconds, lambda: visitor.read(_ended, audit_id), lambda: visitor.read(_standing, audit_id)
    )
    return _audit_page(request, visitor, view)


def _ended(ledger: Reads, tenant: str, audit_id: UUID) -> AuditView | None:
    view = read_audit(ledger, tenant, audit_id)
    return view if view.audit.state in TERMINAL else None


def _standing(ledger: Reads, tenant: str, audit_id: UUID) -> AuditView:
    return with_standing(ledger, read_audit(ledger, tenant, audit_id))


def _audit_page(request: Request, visitor: Asker, view: AuditView, link: Link | None = None) -> Response:
    shown = AuditOut.of(view)
    follows = shown.state in IN_FLIGHT
    says = "It is being measured." if shown.state == "RUNNING" else "It waits for a worker."
    return _private(
        request, visitor, "audit", audit=shown, rules=rules_of(view.verdict), facts=facts_of(shown), follows=follows,
        says=says, reasons=[sentence(why) for why in shown.verdict_reasons], **_linking(visitor, link),
    )  # fmt: skip


@router.get("/ui/series/{series_id}")
async def series(request: Request, series_id: UUID) -> Response:
    """One series."""
    visitor = asker(request)
    return await _series_page(request, visitor, series_id)


async def _series_page(request: Request, visitor: Asker, series_id: UUID, link: Link | None = None) -> Response:
    def found(ledger: Reads, tenant: str) -> tuple[SeriesOut, Any]:
        shown = SeriesOut.of(with_place(ledger, view_series(ledger, tenant, series_id)))
        return shown, members_of(read_document(ledger, tenant, series_id), local("/ui/audits/"))

    shown, members = await visitor.read(found)
    outcome, named = (OUTCOMES[shown.status], word(shown.status)) if shown.status else ("state", "not assessed")
    return _private(
        request, visitor, "series_page", series=shown, members=members, outcome=outcome, word=named,
        facts=facts_of_series(shown), reasons=[sentence(why) for why in shown.reasons], **_linking(visitor, link),
    )  # fmt: skip


@router.get("/ui/{noun}/{subject}/report")
async def report(request: Request, noun: Literal["audits", "series"], subject: UUID) -> Response:
    """The report of an audit or of a series, for whoever is signed in."""
    kind: Kind = "audit" if noun == "audits" else "series"
    document, reader = await asker(request).read(
        reported,
        kind,
        subject,
        lambda _kind, each: page_of("audits", each),
    )
    return written(document, HTML, reader, PRIVATE)


@router.post("/ui/{noun}/{subject}/link")
async def link(request: Request, noun: Literal["audits", "series"], subject: UUID) -> Response:
    """Make a link to a report, and show it."""
    form = await read_form(request)
    days = form.get("days", "7")
    if days not in map(str, DAYS):
        raise RequestInvalid(f"days: one of {', '.join(map(str, DAYS))}", hint="choose one on the page")
    kind: Kind = "audit" if noun == "audits" else "series"
    visitor = asker(request, "write")
    made = await visitor.read(make_link, visitor.settings, kind, subject, timedelta(days=int(days)))
    if kind == "audit":
        return _audit_page(request, visitor, await visitor.read(_standing, subject), made)
    return await _series_page(request, visitor, subject, made)


@router.get("/ui/compare")
async def compare(request: Request, left: str = "", right: str = "") -> Response:
    """Two audits side by side; with one or none, what to compare it with."""
    visitor = asker(request)
    if left and right:
        one, other = _audit_id(left, "left"), _audit_id(right, "right")
        sides = await visitor.read(lambda ledger, tenant: (_side(ledger, tenant, one), _side(ledger, tenant, other)))
        return _private(request, visitor, "compare", found=compared(*sides))
    narrowed = AuditFilter(state="SUCCEEDED")
    found = await visitor.read(list_audits, narrowed, after=None, limit=A_PAGE)
    items = [AuditOut.of(view) for view in found.views if view.audit.verdict and str(view.audit.id) != left]
    return _private(request, visitor, "compare", found=None, left=left, items=items)


def _side(ledger: Reads, tenant: str, audit_id: UUID) -> Side:
    view = read_audit(ledger, tenant, audit_id)
    found = read_result(ledger, tenant, audit_id, layers=False) if view.audit.state == "SUCCEEDED" else None
    return Side(AuditOut.of(view), found if isinstance(found, Comparison) else None)


def _audit_id(given: str, name: str) -> UUID:
    try:
        return UUID(given.strip())
    except ValueError:
        raise RequestInvalid(f"query/{name}: not the id of an audit", hint="it stands on the audit's page") from None


def _one_of(given: str, literal: Any) -> str:
    if given and given not in get_args(literal):
        raise RequestInvalid("query: no such choice", hint=f"one of {', '.join(get_args(literal))}")
    return given


def _turning(
    path: str, asked: dict[str, str], cursor: str | None, following: tuple[datetime, UUID] | None
) -> dict[str, Any]:
    """Where the other pages of a list are."""

    def at(**further: str) -> str:
        query = urlencode(asked | further)
        return local(f"{path}?{query}" if query else path)

    return {"first": at() if cursor else None, "following": at(cursor=encode(*following)) if following else None}


def _linking(visitor: Asker, link: Link | None) -> dict[str, Any]:
    """What a page needs to make a link, or to show the one that was made."""
    may = visitor.caller.has("write") and link_key(visitor.settings) is not None
    shown = None if link is None else {"url": shared(link.path), "ends_at": link.ends_at}
    return {"may_link": may, "link": shown}


def _private(request: Request, visitor: Asker, name: str, **found: Any) -> Response:
    """A page for who is signed in, with what its forms carry."""
    cookie = form_cookie(request)
    shown = page(name, who=visitor.caller, form=token_of(request, cookie, signed_in=True), **found)
    if cookie.fresh:
        keep(request, shown, FORM, cookie.value)
    return shown
