"""Pictures of the first screen of a report, for the README: ``python3 dev.py screenshots``.

Needs Chromium from the system's packages and ``spinal[browser]``. The documents are those that the tests show.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support.pages import page_of, recorded

DOCS = Path(__file__).resolve().parent.parent / "docs" / "images"
PICTURES = {
    "report-fail.png": ("fail", (1280, 800)),
    "report-pass.png": ("pass", (1280, 800)),
    "report-pass-phone.png": ("pass", (390, 844)),
    "report-known-place-phone.png": ("known-place", (390, 844)),
}
"""File -> (document, size of the screen in pixels)."""


def main(folder: Path = DOCS) -> int:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        print("error: Chromium is missing\nnext: apt-get install chromium", file=sys.stderr)
        return 2
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("error: the package playwright is missing\nnext: run it as python3 dev.py screenshots", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as temporary:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=program, args=arguments)
        for file, (name, (width, height)) in PICTURES.items():
            report = Path(temporary) / f"{name}.html"
            report.write_text(page_of(recorded(name)), encoding="utf-8")
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            page.goto(report.as_uri())
            page.screenshot(path=folder / file)
            page.close()
            print(folder / file)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
