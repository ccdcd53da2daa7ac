"""Where checkpoints live. A source is one file here and one line in ``SOURCES``."""

from collections.abc import Callable
from importlib import import_module

from spinal.checkpoints.sources.base import Kind, Listed, Made, Pinned, RemoteSource, Setting, Source, Timeouts


def _file(module: str, name: str) -> Callable[[], Made]:
    def load() -> Made:
        made: Made = getattr(import_module(f"{__name__}.{module}"), name)
        return made

    return load


SOURCES: dict[str, Kind] = {
    kind.scheme: kind
    for kind in (
        Kind("local", "local:PATH", _file("local", "LOCAL"), remote=False),
        Kind("hf", "hf:org/name@revision", _file("hf", "HF")),
        Kind("mlflow", "mlflow:NAME/VERSION", _file("mlflow", "MLFLOW")),
        Kind("s3", "s3://bucket/folder", _file("buckets", "S3")),
        Kind("gs", "gs://bucket/folder", _file("buckets", "GS")),
    )
}
"""Scheme of a reference -> its kind of source."""


def reference_forms() -> str:
    """References a reader can copy, one per source: for error texts, help and the contract."""
    return " or ".join(kind.example for kind in SOURCES.values())


__all__ = [
    "SOURCES",
    "Kind",
    "Listed",
    "Made",
    "Pinned",
    "RemoteSource",
    "Setting",
    "Source",
    "Timeouts",
    "reference_forms",
]
