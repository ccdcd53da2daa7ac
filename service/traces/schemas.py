"""Traces and diffs on the wire."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel

from spinal.documents.base import Digest
from spinal.documents.comparison import Comparison
from spinal.documents.diff import TraceDiff


class TraceHead(BaseModel):
    digest: Digest
    source: str
    weights_digest: Digest
    prompt_set_digest: Digest
    fingerprint: Digest
    engine_version: str
    n_layers: int
    created_at: datetime

    @classmethod
    def of(cls, row: Any) -> Self:
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class TracePage(BaseModel):
    items: list[TraceHead]
    next: str | None


class DiffOut(BaseModel):
    """Differences at once; ``comparison`` adds intervals where an audit of this pair was made."""

    diff: TraceDiff
    comparison: Comparison | None
