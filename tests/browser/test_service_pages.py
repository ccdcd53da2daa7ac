"""The pages of the service as a reader meets them: signed in, on a desktop and on a phone, with and without script."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.settings import Settings
from service.traces.store import store_comparison
from spinal.documents.comparison import Comparison
from spinal.documents.series import Series
from tests.browser.conftest import DESKTOP, PHONE
from tests.browser.test_pages import BROKEN, CUT_OFF
from tests.conftest import Without, create_database
from tests.ledger.rows import MINUTE, put_audit, put_member, put_run, put_series, put_trace
from tests.support.pages import recorded
from tests.support.prefix_proxy import Behind, below_a_path
from tests.support.served import served
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.conftest import HasUrl

NARROW = """() => [...document.querySelectorAll("td, th, dd, li, p, a, b, h1, label, .badge")]
    .filter((one) => one.checkVisibility() && one.textContent.trim().length > 8)
    .map((one) => [one, one.getBoundingClientRect()])
    .filter(([, box]) => box.width > 0 && box.height > 6 * box.width)
    .map(([one]) => one.outerHTML.slice(0, 100))"""
"""Texts that stand in columns so narrow that they are read downwards."""
LONG = "hf:" + "acme-organisation/" + "very-long-name-of-a-checkpoint-" * 4 + "@0123456789abcdef"
HOSTILE = '</b><script>document.title="ran"</script><img src=//evil.example/x>'


@dataclass(frozen=True)
class Site:
    """A served API with audits of every kind."""

    address: str
    key: str
    ids: dict[str, str]
    ledger: Ledger

    def path(self, name: str) -> str:
        return PATHS[name].format(**self.ids)


PATHS = {
    "sign in": "/",
    "audits": "/",
    "none matches": "/?model=nothing",
    "series": "/ui/series",
    "passed": "/ui/audits/{pass}",
    "failed": "/ui/audits/{fail}",
    "running": "/ui/audits/{running}",
    "no result": "/ui/audits/{broken}",
    "one series": "/ui/series/{series}",
    "compare": "/ui/compare?left={pass}&right={fail}",
    "comparable": "/ui/compare?left={pass}&right={again}",
    "choose": "/ui/compare?left={pass}",
    "unknown": "/ui/nowhere",
}


def finished(session: Session, name: str, **members: Any) -> str:
    """An audit whose comparison is one that was recorded."""
    made = recorded(name)
    assert isinstance(made, Comparison)
    known = session.execute(text("SELECT 1 FROM comparisons WHERE digest = :digest"), {"digest": made.digest}).scalar()
    if not known:
        for side in (made.reference, made.candidate):
            if not session.execute(text("SELECT 1 FROM traces WHERE digest = :d"), {"d": side.digest}).scalar():
                put_trace(session, side.digest)
        store_comparison(session, made)
    results = {"reference": made.reference.digest, "candidate": made.candidate.digest, "compare": made.digest}
    spec = {
        "prompt_set": {"digest": "b" * 64, "name": "hh-harmless-128"}, "fingerprint": made.fingerprint,
        "policy": {"name": made.verdict.policy, "digest": made.verdict.policy_digest},
        "candidate": {"source": f"local:/models/{name}"},
    }  # fmt: skip
    runs = {role: put_run(session, "SUCCEEDED", result_digest=digest) for role, digest in results.items()}
    defaults: dict[str, Any] = {
        "tenant": "acme", "candidate": f"local:runs/{name}", "reference": "local:sft", "verdict": made.verdict.outcome,
        "verdict_document": made.verdict.model_dump(mode="json"), "comparison": made.digest,
        "reference_trace": made.reference.digest, "candidate_trace": made.candidate.digest, "spec": spec,
        "labels": {"release": "2026-11", "name": "chat"},
    }  # fmt: skip
    return str(put_audit(session, "SUCCEEDED", runs, **(defaults | members)))


def filled(session: Session) -> dict[str, str]:
    """Audits in every state, and a series."""
    spec = {"prompt_set": {"digest": "b" * 64, "name": "hh-harmless-128"}, "fingerprint": "f" * 64}
    ids = {"pass": finished(session, "pass", created_at=-3 * MINUTE), "fail": finished(session, "fail")}
    ids["again"] = finished(session, "pass", candidate=LONG, created_at=-2 * MINUTE)
    progress = {"phase": "walk", "done": 12, "total": 24, "fraction": 0.5}
    runs = {
        "candidate": put_run(session, "RUNNING", progress=progress),
        "reference": put_run(session, "SUCCEEDED", result_digest="0" * 64),
        "compare": put_run(session, kind="compare"),
    }
    ids["running"] = str(
        put_audit(session, "RUNNING", runs, tenant="acme", candidate="local:next", reference="local:sft", spec=spec)
    )
    error = {"code": "weights_corrupt", "detail": f"model.safetensors: {HOSTILE}", "hint": "upload it again"}
    ids["broken"] = str(put_audit(session, "FAILED", tenant="acme", candidate=HOSTILE, spec=spec, error=error,
                                  labels={"name": HOSTILE, "ansi": "a\x1b[31mb"}))  # fmt: skip
    for number in range(60):
        put_audit(session, "CANCELLED", tenant="acme", candidate=f"local:{number}", spec=spec, created_at=-99 * MINUTE)
    made = recorded("series")
    assert isinstance(made, Series)
    series = put_series(
        session, tenant="acme", description="run of Tuesday", labels={"run": "a"}, reference="local:sft"
    )
    for member in made.members:
        put_member(session, series, member.step, "CANCELLED", tenant="acme", spec=spec, created_at=-999 * MINUTE)
    session.execute(
        text("""UPDATE series SET document = CAST(:document AS jsonb), status = :status, covers_members = :n,
                  covers_settled = :n, covers_closed = FALSE WHERE id = :id"""),
        {"document": made.model_dump_json(), "status": made.status, "n": len(made.members), "id": series},
    )  # fmt: skip
    return ids | {"series": str(series)}


@pytest.fixture(scope="module")
def site(postgres: HasUrl, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with create_database(postgres.url, f"t_{uuid.uuid4().hex}", migrated_template) as url:
        artifacts = f"file://{tmp_path_factory.mktemp('artifacts')}"
        settings = Settings.model_validate(
            {"database_url": url, "artifact_url": artifacts, "log_level": "error", "key_pepper": SecretStr("p"),
             "root_path": "/spinal"}
        )  # fmt: skip
        ledger = Ledger(settings)
        with ledger.begin() as session:
            ids = filled(session)
            key = create_key(session, tenant="acme", scopes=("read", "write"), pepper="p")
        with served(settings) as inner, below_a_path(inner, Behind(tells=False)) as outer:
            yield Site(outer, key, ids, ledger)
        ledger.close()


@dataclass
class Visit:
    page: Page
    said: list[str]
    asked: list[str]


@pytest.fixture
def visit(chromium: Browser, site: Site) -> Iterator[Callable[..., Visit]]:
    """Opens a browser of its own, and signs it in."""
    contexts = []

    def opened(size: tuple[int, int] = DESKTOP, *, signed_in: bool = True, **how: Any) -> Visit:
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, **how)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        found = Visit(page, [], [])
        page.on("console", lambda message: found.said.append(message.text))
        page.on("pageerror", lambda error: found.said.append(str(error)))
        page.on("request", lambda request: found.asked.append(request.url))
        if signed_in:
            page.goto(f"{site.address}/")
            page.get_by_label("API key").fill(site.key)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("heading", name="Audits", exact=True).wait_for()
        return found

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_nothing_to_object_to(visit: Callable[..., Visit], site: Site, size: tuple[int, int], scheme: str) -> None:
    visitor, stranger = visit(size, color_scheme=scheme), visit(size, signed_in=False, color_scheme=scheme)
    pictures = os.environ.get("PAGES_PICTURES")
    for name in PATHS:
        who = stranger if name == "sign in" else visitor
        who.said.clear()
        who.page.goto(site.address + site.path(name), wait_until="domcontentloaded")
        if pictures:
            who.page.screenshot(path=str(Path(pictures) / f"{name.replace(' ', '-')}-{size[0]}.png"), full_page=True)
        assert who.page.evaluate("document.documentElement.scrollWidth") == size[0], f"{name} scrolls sideways"
        assert who.page.evaluate(CUT_OFF) == [], name
        assert who.page.evaluate(BROKEN) == [], name
        assert who.page.evaluate(NARROW) == [], name
        assert who.page.title() != "ran"
        # A browser says of itself that a page is not there.
        assert [one for one in who.said if name != "unknown" or "404" not in one] == [], name
    hosts = {urlsplit(url).netloc for url in visitor.asked + stranger.asked if not url.startswith("data:")}
    assert hosts == {urlsplit(site.address).netloc}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_them(visit: Callable[..., Visit], site: Site, scheme: str, without: Without) -> None:
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        without("the package axe-playwright-python", "pip install 'spinal[browser]' of this checkout")
    visitor, stranger = visit(PHONE, color_scheme=scheme), visit(PHONE, signed_in=False, color_scheme=scheme)
    for name in PATHS:
        who = stranger if name == "sign in" else visitor
        who.page.goto(site.address + site.path(name), wait_until="domcontentloaded")
        found = Axe().run(who.page)
        wrong = [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found.response["violations"]]
        assert wrong == [], name


def test_without_script_everything_works_but_live_progress(visit: Callable[..., Visit], site: Site) -> None:
    visitor = visit(PHONE, java_script_enabled=False)
    page = visitor.page
    page.get_by_label("Verdict").select_option("fail")
    page.get_by_role("button", name="Show").click()
    assert page.locator(".items li").count() == 1
    page.locator(".items a").first.click()
    page.get_by_role("button", name="Make a link").click()
    link = page.locator(".url a").get_attribute("href")
    assert link is not None
    assert link.startswith("/spinal/r/")
    stranger = visit(signed_in=False, java_script_enabled=False).page
    answer = stranger.goto(f"{site.address.removesuffix('/spinal')}{link}")
    assert answer is not None
    assert answer.status == 200
    assert "fail" in stranger.locator("h1 .badge").inner_text().lower()
    page.goto(site.address + site.path("running"))
    assert page.locator("noscript meta").count() == 1 or "refresh" in page.content()
    page.goto(f"{site.address}/")
    page.get_by_role("link", name="Older").click()
    page.get_by_role("link", name="Newest").click()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").wait_for()
    answer = page.goto(site.address + site.path("passed"))
    assert answer is not None
    assert answer.status == 401


def test_progress_moves_and_the_page_shows_the_end(visit: Callable[..., Visit], site: Site) -> None:
    visitor = visit()
    spec = '{"prompt_set": {"digest": "b"}, "fingerprint": "f"}'
    with site.ledger.begin() as session:
        run = put_run(session, "RUNNING", progress={"phase": "walk", "done": 1, "total": 4, "fraction": 0.25})
        audit = put_audit(session, "RUNNING", {"candidate": run}, tenant="acme", candidate="local:moving")
        session.execute(text("UPDATE audits SET spec = CAST(:s AS jsonb) WHERE id = :id"), {"s": spec, "id": audit})
    visitor.page.goto(f"{site.address}/ui/audits/{audit}", wait_until="domcontentloaded")
    box = visitor.page.locator("#progress")
    assert "25%" in box.inner_text()
    with site.ledger.begin() as session:
        session.execute(
            text("UPDATE runs SET progress = jsonb_set(progress, '{fraction}', '0.75') WHERE id = :id"), {"id": run}
        )
    until(lambda: "75%" in box.inner_text(), "the page to show how far it is", timeout=30.0)
    with site.ledger.begin() as session:
        session.execute(
            text("UPDATE audits SET state = 'CANCELLED', finished_at = now() WHERE id = :id"), {"id": audit}
        )
    visitor.page.get_by_text("It was cancelled.").wait_for()
    assert visitor.said == []


def test_the_policy_of_a_page_holds_against_a_script_that_got_in(visit: Callable[..., Visit], site: Site) -> None:
    visitor = visit()

    def altered(route: Any) -> None:
        answer = route.fetch()
        body = answer.text().replace(
            "</main>", "</main><script>document.title='ran'</script><img src=//evil.example/x>"
        )
        route.fulfill(response=answer, body=body)

    visitor.page.route("**/ui/audits/*", altered)
    visitor.page.goto(site.address + site.path("running"), wait_until="domcontentloaded")
    assert visitor.page.title() != "ran"
    assert len([one for one in visitor.said if "Content Security Policy" in one]) >= 2
