"""The report of a training run as a reader meets it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from spinal.documents.series import Series
from tests.browser.conftest import DESKTOP, PHONE, Opened
from tests.browser.test_pages import BROKEN, CUT_OFF, TALLEST, unfold
from tests.support.fabricated_series import hostile, series
from tests.support.pages import page_of, recorded

TOUCHING = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => {
    const boxes = [...plot.querySelectorAll("text")].map((one) => [one.textContent, one.getBoundingClientRect()]);
    return boxes.flatMap(([text, one], at) => boxes.slice(at + 1)
        .filter(([, other]) => one.left < other.right - 1 && other.left < one.right - 1 &&
            one.top < other.bottom - 3 && other.top < one.bottom - 3)
        .map(([also]) => `${text} / ${also}`));
})"""
"""Labels of axes that run into each other."""
FAR_OUT = """() => [...document.querySelectorAll(".plot text")].filter((one) => {
    const box = one.getBoundingClientRect();
    return box.width && (box.left < 0 || box.right > document.documentElement.clientWidth);
}).map((one) => one.textContent)"""
"""Labels of axes that reach beyond the screen."""


def extremes() -> dict[str, Series]:
    """Documents at the ends of what there can be."""
    return {
        "empty": series("empty"),
        "one checkpoint": series("insufficient", 1),
        "gaps": series("gaps", 40),
        "long and deep": series("drawdown", 300, 80),
        "no account": series("no account"),
        "hostile": hostile(),
    }


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_first_screen_holds_status_reason_and_where_it_began(
    open_page: Callable[..., Opened], size: tuple[int, int]
) -> None:
    opened = open_page("series", size)
    document = recorded("series")
    assert isinstance(document, Series)
    badge = opened.page.locator("h1 .badge")
    assert badge.inner_text().lower().split()[-1] == "destabilised"
    reason = opened.page.locator("h1 .why").inner_text()
    assert reason.lower() == f"{document.reasons[0].lower()}."
    began = opened.page.get_by_text(f"It began between steps {document.onset_step} and", exact=False).first
    strip = opened.page.locator("figure svg.data").first
    for one in (badge, began, strip):
        box = one.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= size[1]
    assert opened.page.locator("figure .onset").first.is_visible()


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
@pytest.mark.parametrize("which", list(extremes()))
def test_extreme_runs_are_read(
    open_page: Callable[..., Opened], which: str, size: tuple[int, int], scheme: str, tmp_path: Path
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    path = tmp_path / "page.html"
    path.write_text(page_of(extremes()[which]), encoding="utf-8")
    opened = open_page(path, size, color_scheme=scheme)
    assert opened.page.evaluate("document.documentElement.scrollHeight") < TALLEST
    assert opened.page.evaluate(TOUCHING) == []
    assert opened.page.evaluate(FAR_OUT) == []
    unfold(opened)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert opened.page.evaluate(CUT_OFF) == []
    assert opened.page.evaluate(BROKEN) == []
    found = Axe().run(opened.page)
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found.response["violations"]] == []
    assert opened.page.title() != "ran"
    assert (opened.said, opened.asked) == ([], [])


def test_a_step_is_read_by_pointer_and_by_keyboard(open_page: Callable[..., Opened]) -> None:
    opened = open_page("series")
    handle = opened.page.get_by_label("Step to read").first
    assert opened.page.locator("figure output").first.inner_text().startswith("Point at a step")
    handle.focus()
    for _ in range(9):
        opened.page.keyboard.press("ArrowRight")
    says = opened.page.locator("figure output").first
    assert says.inner_text().startswith("step 1,000 · fell from its best: predicts text worse")
    marked = opened.page.locator("tr.here")
    assert marked.count() >= 1
    assert {marked.nth(at).locator("th").text_content() for at in range(marked.count())} == {"1,000"}
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("tr.here").count() == 0
    over = opened.page.locator("figure").last.locator("svg.over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    # The second of twelve columns.
    opened.page.mouse.move(box["x"] + box["width"] * 1.5 / 12, box["y"] + 30)
    told = opened.page.locator("figure output").last.inner_text()
    assert told.startswith("step 200 · block ")
    assert opened.said == []


def test_without_script_every_step_is_told(open_page: Callable[..., Opened]) -> None:
    bare = open_page("series", java_script_enabled=False)
    assert not bare.page.get_by_label("Step to read").first.is_visible(), "no handle that moves nothing"
    titles = bare.page.locator("figure").first.locator(".over title")
    assert titles.count() == 12
    assert (titles.nth(2).text_content() or "").startswith("step 300 · predicts text worse: ")
    assert bare.page.locator("section[aria-labelledby=members] tbody tr").count() == 12


def test_marks_and_words_tell_what_colours_tell(open_page: Callable[..., Opened]) -> None:
    """With all colours forced to those of the system, an alarm still has its triangle, a square its size, and the key
    its words."""
    opened = open_page("series", forced_colors="active")
    assert opened.page.locator("path.alarm").count() > 1
    keys = [one.strip() for one in opened.page.locator(".keys .key").all_inner_texts()]
    for told in ("damage, known here", "it began in this stretch", "against the change", "running best"):
        assert told in keys
    sizes = opened.page.evaluate(
        "[...document.querySelectorAll('.keys rect.cell.changed')].map((one) => one.getBBox().width)"
    )
    assert sizes == sorted(set(sizes))
    assert len(sizes) > 2


def test_a_checkpoint_leads_to_its_audit(open_page: Callable[..., Opened]) -> None:
    opened = open_page("series")
    links = opened.page.locator("section[aria-labelledby=members] a")
    assert links.count() == 12
    document = recorded("series")
    assert isinstance(document, Series)
    assert str(document.members[4].audit) in (links.nth(4).get_attribute("href") or "")
