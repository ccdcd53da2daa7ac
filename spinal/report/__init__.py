"""Documents for people and pipelines: JSON, Markdown, one HTML file."""

from typing import Literal

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report.formats.html import render_html
from spinal.report.formats.markdown import render_markdown

Format = Literal["json", "html", "md"]
FORMATS: tuple[Format, ...] = ("json", "html", "md")


def render(document: Trace | Comparison, format: Format) -> str:
    """A trace or comparison as text in the chosen format. Pure: the same document gives the same text."""
    if format == "json":
        return document.model_dump_json(by_alias=True, indent=2) + "\n"
    return render_html(document) if format == "html" else render_markdown(document)
