"""How a document is written: one module here, and one line in ``FORMATS``, for each format."""

from spinal.report.formats.cyclonedx import CYCLONEDX
from spinal.report.formats.format import Format
from spinal.report.formats.gitlab import ANNOTATIONS, CODEQUALITY, METRICS
from spinal.report.formats.html import HTML
from spinal.report.formats.json import JSON
from spinal.report.formats.junit import JUNIT
from spinal.report.formats.markdown import MARKDOWN
from spinal.report.formats.sarif import SARIF

FORMATS: dict[str, Format] = {
    made.name: made for made in (JSON, HTML, MARKDOWN, JUNIT, SARIF, ANNOTATIONS, METRICS, CODEQUALITY, CYCLONEDX)
}
"""By name."""


def format_of(name: str) -> Format | None:
    """The format that files with this name or ending have, if there is one: that with the longest ending."""
    endings = ((len(suffix), made) for made in FORMATS.values() for suffix in made.suffixes if name.endswith(suffix))
    return max(endings, key=lambda one: one[0], default=(0, None))[1]
