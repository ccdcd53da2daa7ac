"""Reports as a reader meets them: on a desktop, on a phone and on paper, in light and dark, with and without script."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report import render
from tests.browser.conftest import DESKTOP, NAMES, PHONE, Opened
from tests.conftest import Without
from tests.support.fabricated import changed_pair, identical_pair, trace
from tests.support.pages import recorded
from tests.support.waiting import until

COMPARED = ("pass", "fail", "known-place")
PLACES = {
    "pass": "80% needs 17 of 24 blocks",
    "fail": "80% needs 18 of 24 blocks",
    "known-place": "Only blocks 1-7 changed; 8-24 are bit-identical.",
}
REASONS = {
    "pass": "No sure sign of damage in anything that was measured.",
    "fail": "Predicts text 34 times worse: +3.51 nats a token [3.26, 3.77], limit 1.0.",
    "known-place": "No sure sign of damage in anything that was measured.",
}
TALLEST = 6000
"""Pixels of a page at the width of a phone."""
BOX = """(text) => {
    const holders = [...document.querySelectorAll("body *:not(script, style, title, desc)")]
        .filter((one) => one.textContent.replace(/\\s+/g, " ").includes(text));
    if (!holders.length) return null;
    holders.sort((one, other) => one.textContent.length - other.textContent.length);
    const first = holders.filter((one) => one.textContent.length === holders[0].textContent.length);
    const boxes = first.map((one) => one.getBoundingClientRect()).sort((one, other) => one.top - other.top);
    return [boxes[0].top, boxes[0].bottom];
}"""
"""Top and bottom of the highest of the smallest elements that hold a text, in pixels from the top of the screen."""
CUT_OFF = """() => [...document.querySelectorAll("body *")]
    .filter((one) => !one.closest(".scroll, svg, details:not([open])"))
    .filter((one) => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map((one) => one.outerHTML.slice(0, 120))"""
"""Elements that reach beyond the right edge of the screen, outside the boxes that scroll."""
BROKEN = """() => [...document.querySelectorAll("td.n, th.n, .value")]
    .filter((one) => one.getClientRects().length && one.checkVisibility())
    .filter((one) => {
        const range = document.createRange();
        range.selectNodeContents(one);
        return new Set([...range.getClientRects()].map((box) => Math.round(box.top / 6))).size > 1;
    })
    .map((one) => one.textContent)"""
"""Numbers on more than one line."""
OVERLAP = """() => [...document.querySelectorAll(".bars li:not(.scale)")].filter((row) => {
    const boxes = [...row.children].map((one) => {
        const range = document.createRange();
        range.selectNodeContents(one);
        return one.tagName === "svg" ? one.getBoundingClientRect() : range.getBoundingClientRect();
    });
    const whole = row.getBoundingClientRect();
    return boxes.some((one, at) => one.right > whole.right + 1 || boxes.slice(at + 1).some((other) =>
        one.left < other.right - 1 && other.left < one.right - 1 &&
        one.top < other.bottom - 3 && other.top < one.bottom - 3));
}).map((row) => row.textContent)"""
"""Bars whose name, drawing, value and level run into each other, or out of their row."""


def unfold(opened: Opened) -> None:
    opened.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_object_to(
    open_page: Callable[..., Opened], name: str, size: tuple[int, int], scheme: str, without: Without
) -> None:
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        without("the package axe-playwright-python", "pip install 'spinal[browser]' of this checkout")
    opened = open_page(name, size, color_scheme=scheme)
    unfold(opened)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == size[0], "the page itself never scrolls"
    assert opened.page.evaluate(CUT_OFF) == []
    assert opened.page.evaluate(BROKEN) == []
    assert opened.page.evaluate(OVERLAP) == []
    found = Axe().run(opened.page)
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found.response["violations"]] == []
    assert (opened.said, opened.asked) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_paper_holds_everything(open_page: Callable[..., Opened], name: str, scheme: Literal["light", "dark"]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    opened = open_page(name, color_scheme=scheme)
    folded = opened.page.locator("details table").count() if name != "trace" else 0
    opened.page.emulate_media(media="print", color_scheme=scheme)
    # A sheet of A4 between its margins.
    opened.page.set_viewport_size({"width": 718, "height": 1000})
    shown = opened.page.evaluate(
        "[...document.querySelectorAll('details table')].filter((one) => one.getBoundingClientRect().height > 0).length"
    )
    assert shown == folded
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 718
    hidden = opened.page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollHeight > one.clientHeight + 1).length"
    )
    assert hidden == 0, "paper does not scroll"
    assert opened.page.evaluate(OVERLAP) == []
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    found = Axe().run(opened.page)
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found.response["violations"]] == []
    assert (opened.said, opened.asked) == ([], [])


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", COMPARED)
def test_the_first_screen_holds_verdict_reason_and_place(
    open_page: Callable[..., Opened], name: str, size: tuple[int, int]
) -> None:
    opened = open_page(name, size)
    badge = opened.page.locator("h1 .badge")
    assert badge.inner_text().lower().split()[-1] == {"fail": "fail"}.get(name, "pass")
    first = badge.bounding_box()
    assert first is not None
    assert first["y"] + first["height"] <= size[1]
    for text in (REASONS[name], PLACES[name]):
        box = opened.page.evaluate(BOX, text)
        assert box is not None, text
        assert 0 <= box[0] < box[1] <= size[1], text
    # And the strip: what carries the change by place.
    strip = opened.page.locator("figure svg.data").first.bounding_box()
    assert strip is not None
    assert strip["y"] + strip["height"] <= size[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_phone_has_not_far_to_scroll(open_page: Callable[..., Opened], name: str) -> None:
    opened = open_page(name, PHONE)
    assert opened.page.evaluate("document.documentElement.scrollHeight") < TALLEST


def test_tables_are_read_with_the_keyboard(open_page: Callable[..., Opened]) -> None:
    opened = open_page("fail", PHONE)
    unfold(opened)
    boxes = opened.page.locator(".scroll").count()
    reached = set()
    # Links, folds, handles and boxes: no more than a few for each table.
    for _ in range(8 * boxes):
        opened.page.keyboard.press("Tab")
        reached.add(opened.page.evaluate("document.activeElement.getAttribute('aria-label')"))
    tables = {opened.page.locator(".scroll").nth(at).get_attribute("aria-label") for at in range(boxes)}
    assert tables <= reached
    assert boxes > 8
    wide = opened.page.locator(".scroll").filter(has_text="top token changes").first
    wide.focus()
    opened.page.keyboard.press("ArrowRight")
    until(lambda: wide.evaluate("(box) => box.scrollLeft > 0"), "the arrow key to scroll the table", timeout=10.0)


def test_a_block_is_read_by_pointer_and_by_keyboard(open_page: Callable[..., Opened]) -> None:
    opened = open_page("known-place")
    handle = opened.page.get_by_label("Block to read").first
    handle.focus()
    for _ in range(8):
        opened.page.keyboard.press("ArrowRight")
    says = opened.page.locator("figure output").first
    assert "block 8" in says.inner_text()
    assert "bit-identical" in says.inner_text()
    assert opened.page.locator("tr.here").count() >= 2, "the same block in the tables"
    opened.page.mouse.wheel(0, -5000)
    until(lambda: opened.page.evaluate("scrollY === 0"), "the top of the page", timeout=10.0)
    over = opened.page.locator("svg.over").first.bounding_box()
    assert over is not None
    # The second column of 26: block 1.
    opened.page.mouse.move(over["x"] + over["width"] * 1.5 / 26, over["y"] + 30)
    assert says.inner_text().startswith("block 1 ")
    assert opened.said == []


def test_without_script_nothing_is_missing(open_page: Callable[..., Opened]) -> None:
    with_script, bare = open_page("fail"), open_page("fail", java_script_enabled=False)
    texts = [
        "".join(opened.page.locator("main").inner_text().split())
        for opened in (with_script, bare)
        if opened.page.locator("main").count()
    ]
    hint = "".join(["Point", "at", "a", "block,", "or", "move", "the", "handle,", "to", "read", "it"])
    assert texts[0].replace(hint, "") == texts[1]
    assert not bare.page.get_by_label("Block to read").first.is_visible(), "no handle that moves nothing"
    says = bare.page.locator(".over title").nth(3).text_content() or ""
    assert says.startswith("block 3 · carries the change:")
    assert "contraction: reference" in says


def test_names_from_outside_run_nothing(open_page: Callable[..., Opened], tmp_path: Path) -> None:
    hostile = '</title></script><script>document.title="ran"</script><img src=x onerror=document.title="ran">\u202e'
    made = recorded("pass")
    assert isinstance(made, Comparison)
    path = tmp_path / "hostile.html"
    named = made.model_copy(update={"candidate": made.candidate.model_copy(update={"source": hostile})})
    path.write_text(render(named, "html"), encoding="utf-8")
    opened = open_page(path)
    assert opened.page.title() != "ran"
    assert (opened.said, opened.asked) == ([], [])


def test_the_page_obeys_its_own_policy(
    open_page: Callable[..., Opened], pages: dict[str, Path], tmp_path: Path
) -> None:
    """A script that is not the report's is not run, even if somebody gets it into the page."""
    changed = tmp_path / "changed.html"
    page = pages["pass"].read_text(encoding="utf-8")
    changed.write_text(page.replace("</main>", "</main><script>document.title='ran'</script>"), encoding="utf-8")
    opened = open_page(changed)
    assert opened.page.title() != "ran"
    assert any("Content Security Policy" in said for said in opened.said)


def extremes() -> dict[str, Comparison | Trace]:
    """Documents at the ends of what there can be."""
    pair = changed_pair().compare()
    name = "hf:" + "a" * 300 + "/b@c"
    named = pair.model_copy(
        update={"candidate": pair.candidate.model_copy(update={"source": name}), "warnings": ("x" * 500,)}
    )
    return {
        "identical": identical_pair().compare(),
        "deep": changed_pair(126, first=1).compare(),
        "long names": named,
        "one block": trace("sft", 1, 8),
    }


@pytest.mark.parametrize("which", ["identical", "deep", "long names", "one block"])
def test_extreme_documents_are_read_on_a_phone(open_page: Callable[..., Opened], which: str, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    path = tmp_path / "page.html"
    path.write_text(render(extremes()[which], "html"), encoding="utf-8")
    opened = open_page(path, PHONE)
    assert opened.page.evaluate("document.documentElement.scrollHeight") < TALLEST
    unfold(opened)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    assert opened.page.evaluate(BROKEN) == []
    assert opened.page.evaluate(OVERLAP) == []
    found = Axe().run(opened.page)
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found.response["violations"]] == []
    assert (opened.said, opened.asked) == ([], [])
