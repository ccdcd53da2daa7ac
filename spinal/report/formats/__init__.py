"""How a document is written: one module here, and one line in ``FORMATS``, for each format."""

from spinal.report.formats.format import Format
from spinal.report.formats.html import HTML
from spinal.report.formats.json import JSON
from spinal.report.formats.markdown import MARKDOWN

FORMATS: dict[str, Format] = {made.name: made for made in (JSON, HTML, MARKDOWN)}
"""By name."""


def format_of(suffix: str) -> Format | None:
    """The format that files with this ending have, if there is one."""
    return next((made for made in FORMATS.values() if suffix in made.suffixes), None)
