"""The page of the contract as a browser shows it: of an API below a path, on a desktop and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import httpx
import pytest

from service.app import bare_app
from service.settings import Settings
from tests.browser.conftest import DESKTOP, PHONE
from tests.support.prefix_proxy import Behind, below_a_path
from tests.support.served import serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SECTIONS = """() => Object.fromEntries([...document.querySelectorAll("section.operation")]
    .filter((one) => one.checkVisibility()).map((one) => [one.id, one.innerText]))"""
"""What each operation that can be seen says."""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def docs() -> Iterator[str]:
    """Its address behind a proxy that strips the prefix. It needs no database."""
    app = bare_app(Settings.model_validate({"root_path": "/spinal", "auth": "disabled"}))
    with serving(app) as inner, below_a_path(inner, Behind(tells=False)) as outer:
        # Made once, when first asked for, which may take longer on a busy machine than a browser waits.
        assert httpx.get(f"{outer}/docs", timeout=120).status_code == 200
        yield f"{outer}/docs"


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_it_shows_every_operation_and_asks_nobody_else(
    chromium: Browser, docs: str, size: tuple[int, int], scheme: Literal["light", "dark"]
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(120_000)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    answer = page.goto(docs)
    assert answer is not None
    assert "script" not in answer.headers["content-security-policy"], "no script at all"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    shown = page.evaluate(SECTIONS)
    paths: dict[str, Any] = bare_app().openapi()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert f"{method.upper()} {path}" in shown[operation["operationId"]]
    assert page.evaluate(WIDER) <= 0, "the page itself never scrolls sideways"
    broken = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].filter((one) => !document.getElementById(one.hash.slice(1)))"
        ".map((one) => one.hash)"
    )
    assert broken == []
    page.get_by_role("link", name="POST /v1/audits").first.click()
    page.locator("section#submitAudit summary").click()
    assert "$SPINAL_SERVER/v1/audits" in page.locator("section#submitAudit pre").inner_text()
    found = Axe().run(page)
    assert [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found.response["violations"]] == []
    assert page.get_by_role("link", name="openapi.json").evaluate("(one) => one.href").endswith("/spinal/openapi.json")
    assert {urlsplit(url).path for url in asked} == {urlsplit(docs).path}
    assert said == []
    context.close()


def test_its_policy_holds_against_a_script_that_got_in(chromium: Browser, docs: str) -> None:
    context = chromium.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))

    def altered(route: Any) -> None:
        answer = route.fetch()
        body = answer.text().replace(
            "</main>", "</main><script>document.title='ran'</script><img src=//evil.example/x>"
        )
        route.fulfill(response=answer, body=body)

    page.route("**/docs", altered)
    page.goto(docs)
    assert page.title() != "ran"
    assert len([one for one in said if "Content Security Policy" in one]) == 2, said
    context.close()
