"""Where checkpoints live. A source is one file here and one line in ``SOURCES``."""

from spinal.checkpoints.sources.base import Pinned, Source
from spinal.checkpoints.sources.local import Local

SOURCES: dict[str, Source] = {"local": Local()}
"""Scheme of a reference -> its source."""


def reference_forms() -> str:
    """References a reader can copy, one per source: for error texts, help and the contract."""
    return " or ".join(source.example for source in SOURCES.values())


__all__ = ["SOURCES", "Pinned", "Source", "reference_forms"]
