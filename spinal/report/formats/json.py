"""Reports as the document itself, in JSON."""

from spinal.report.formats.format import Format
from spinal.report.reported import Reported
from spinal.text import visible_json


def render_json(document: Reported) -> str:
    """The document, indented; reads back as it was."""
    return visible_json(document.model_dump_json(by_alias=True, indent=2)) + "\n"


JSON = Format("json", (".json",), "application/json", render_json)
