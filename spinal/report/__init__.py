"""Documents for people and pipelines: what a report says, and the formats it is written in."""

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report.formats import FORMATS


def render(document: Trace | Comparison, format: str) -> str:
    """A trace or comparison as text in the format of that name. Raises KeyError for an unknown one.

    >>> import spinal.report
    >>> sorted(spinal.report.FORMATS)
    ['html', 'json', 'md']
    """
    return FORMATS[format].render(document)
