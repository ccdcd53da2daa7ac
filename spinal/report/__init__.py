"""Documents for people and pipelines: what a report says, and the formats it is written in."""

from spinal.report.formats import FORMATS
from spinal.report.reported import Reported


def render(document: Reported, format: str) -> str:
    """A trace, comparison or series as text in the format of that name. Raises KeyError for an unknown one, and
    NoVerdict for a trace in a format that tells a verdict.

    >>> import spinal.report
    >>> sorted(spinal.report.FORMATS)
    ['gitlab-annotations', 'gitlab-codequality', 'gitlab-metrics', 'html', 'json', 'junit', 'md', 'sarif']
    """
    return FORMATS[format].render(document)
