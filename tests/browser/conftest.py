"""One headless Chromium for all tests of a file, and pages that keep what the browser says of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Without
from tests.support.pages import page_of, recorded

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESKTOP, PHONE = (1280, 800), (390, 844)
NAMES = ("pass", "fail", "known-place", "trace", "series")


@dataclass
class Opened:
    """A page, and what a browser complained of since it was opened."""

    page: Page
    said: list[str] = field(default_factory=list)
    """Console messages and errors of scripts."""
    asked: list[str] = field(default_factory=list)
    """Addresses other than the page's own that it asked for."""


@pytest.fixture(scope="module")
def chromium(without: Without) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        without("Chromium", "apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        without("the package playwright", "pip install 'spinal[browser]' of this checkout")
    with sync_playwright() as driver:
        # Its sandbox needs user namespaces, which root has no use for and containers take away.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of every recorded document, as a file."""
    folder = tmp_path_factory.mktemp("pages")
    made = {name: folder / f"{name}.html" for name in NAMES}
    for name, path in made.items():
        path.write_text(page_of(recorded(name)), encoding="utf-8")
    return made


@pytest.fixture
def open_page(chromium: Browser, pages: dict[str, Path]) -> Iterator[Callable[..., Opened]]:
    """Opens the report of a recorded document, or a file."""
    contexts = []

    def opened(named: str | Path, size: tuple[int, int] = DESKTOP, **how: Any) -> Opened:
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, **how)
        contexts.append(context)
        page = context.new_page()
        address = (pages[named] if isinstance(named, str) else named).as_uri()
        found = Opened(page)
        page.on("console", lambda message: found.said.append(message.text))
        page.on("pageerror", lambda error: found.said.append(str(error)))
        page.on("request", lambda asked: found.asked.append(asked.url) if asked.url != address else None)
        page.goto(address)
        return found

    yield opened
    for context in contexts:
        context.close()
