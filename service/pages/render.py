"""The templates of the pages beside those of reports, with their style sheet; and what a browser lets a page do."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader
from markupsafe import Markup

from service.http.addresses import local
from spinal.report.page.environment import environment, text_of

FOLDER = Path(__file__).resolve().parent / "templates"
PRIVATE = {
    "Cache-Control": "private, no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""What is sent with every page: it is for one reader."""


def page(name: str, *, status: int = 200, headers: dict[str, str] | None = None, **found: Any) -> HTMLResponse:
    """A page by the name of its template. It runs the script of progress where it is given ``follows``."""
    follows = bool(found.get("follows"))
    body = (
        _environment()
        .get_template(f"{name}.html.j2")
        .render(style=_style(), script=_script() if follows else "", local=local, **{"follows": follows, **found})
    )
    return HTMLResponse(
        body, status, headers=PRIVATE | {"Content-Security-Policy": content_policy(follows)} | (headers or {})
    )


@cache
def content_policy(follows: bool) -> str:
    """Its own style sheet, and its own script where it has one, each by its digest; forms are sent back here."""
    script = f"script-src {_digest(_script())}; connect-src 'self'; " if follows else ""
    return (
        f"default-src 'none'; style-src {_digest(_style())}; {script}img-src data:; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    )


@cache
def _style() -> Markup:
    return Markup(str(text_of("report.css")) + "\n" + _text("pages.css"))  # noqa: S704  our own files


@cache
def _script() -> Markup:
    return Markup(_text("progress.js"))  # noqa: S704  our own file


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> Environment:
    return environment().overlay(
        loader=ChoiceLoader([FileSystemLoader(FOLDER), PackageLoader("spinal.report", "templates")])
    )
