"""The templates, and the one policy of content under which a page works: its own style sheet and script, and nothing
from anywhere."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from spinal.report.page.tables import shown
from spinal.text import visible

INTERVAL = re.compile(r"\[[−+\d., %×⁻⁰¹²³⁴-⁹-]+\]|\d × 10")
"""What is never broken, not even where a cell may be."""
BEFORE = re.compile(r"(?<=[\d%]) (?=\[)")
"""Between a value and its interval."""
SPACE = "&nbsp;"
PLAIN = (
    ("||r_D||", "the last hidden state's length"),
    (" || ", " ‖ "),
    (" -> ", " → "),
    ("||", "‖"),
    ("`", ""),
)


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("spinal.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["plain"] = plain
    made.filters["shown"] = shown
    made.filters["cell"] = cell
    return made


@cache
def text_of(name: str) -> Markup:
    """A file beside the templates, without the space that a browser does not need."""
    text = files("spinal.report").joinpath("templates", name).read_text(encoding="utf-8")
    return Markup("\n".join(line.strip() for line in text.splitlines() if line.strip()))  # noqa: S704  our own file


@cache
def content_policy() -> str:
    """What a browser lets the page do: exactly this style sheet and this script, by their digests."""
    return (
        f"default-src 'none'; style-src {_digest('report.css')}; script-src {_digest('report.js')}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def plain(text: str) -> str:
    """A sentence without the notation of formulas."""
    for notation, word in PLAIN:
        text = text.replace(notation, word)
    return text


def _digest(name: str) -> str:
    whole = hashlib.sha256(text_of(name).encode()).digest()
    return f"'sha256-{base64.b64encode(whole).decode()}'"


def cell(text: str) -> Markup:
    """Of a table, which paper may break between a value and its interval and nowhere else."""
    safe = str(escape(visible(text)))
    return Markup(INTERVAL.sub(lambda found: found[0].replace(" ", SPACE), safe))  # noqa: S704  escaped above


def _finalize(value: object) -> object:
    """Names come from outside: whatever a reader would not see is written out; numbers stay on one line."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return Markup(BEFORE.sub(SPACE, str(cell(value))))  # noqa: S704  escaped there
    return value
