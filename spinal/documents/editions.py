"""Under which names numbers are stored: how digests are made, and the versions of engine and scorer.

A trace or a comparison is called by a digest that all three enter. While a release rolls out, work that the release
before accepted is carried out under its edition, so that both read the same names.
"""

from dataclasses import dataclass

from spinal.documents.canonical import PYTHON_JSON, RFC_8785


@dataclass(frozen=True)
class Edition:
    """What a digest says beside the measured content."""

    scheme: str
    """Scheme of digests (``spinal.documents.canonical``)."""
    engine: str
    """Version of the measuring engine: raised when a number in a trace may change."""
    scorer: str
    """Version of the scorer: raised when a number in a comparison may change."""
    since: int
    """The version of specifications (``service/runs/specs.py``) that first asks for it; grows with the others."""


PRESENT = Edition(scheme=RFC_8785, engine="4", scorer="4", since=5)
FORMER = Edition(scheme=PYTHON_JSON, engine="2", scorer="2", since=3)
"""The release before. Its traces hold the same numbers; its intervals of alpha rest on an approximate quantile."""
