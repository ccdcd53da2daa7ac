"""Where checkpoints live. A source is one file here and one line in ``SOURCES``."""

from spinal.checkpoints.sources.base import Kind, Listed, Pinned, RemoteSource, Setting, Source, Timeouts
from spinal.checkpoints.sources.buckets import GS, S3
from spinal.checkpoints.sources.hf import HF
from spinal.checkpoints.sources.local import LOCAL
from spinal.checkpoints.sources.mlflow import MLFLOW

SOURCES: dict[str, Kind] = {kind.scheme: kind for kind in (LOCAL, HF, MLFLOW, S3, GS)}
"""Scheme of a reference -> its kind of source."""


def reference_forms() -> str:
    """References a reader can copy, one per source: for error texts, help and the contract."""
    return " or ".join(kind.example for kind in SOURCES.values())


__all__ = ["SOURCES", "Kind", "Listed", "Pinned", "RemoteSource", "Setting", "Source", "Timeouts", "reference_forms"]
