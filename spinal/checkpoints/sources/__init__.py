"""Where checkpoints live. A source is one file here and one line in ``SOURCES``."""

from spinal.checkpoints.sources.base import Pinned, Source
from spinal.checkpoints.sources.local import Local

SOURCES: dict[str, Source] = {"local": Local()}
"""Scheme of a reference -> its source."""

__all__ = ["SOURCES", "Pinned", "Source"]
