"""Two stored traces against each other, layer by layer: the document ``spinal.diff/1``."""

from typing import Literal

from pydantic import ConfigDict, Field

from spinal.documents.base import Digest, Document, Finite


class PositionDiff(Document):
    """Candidate minus reference at one node under one policy; null where either side is null."""

    d_contraction: Finite | None
    d_contraction_windows: dict[Literal["bulk", "body", "wide", "tail"], Finite | None]
    window_agreement: bool | None
    """Whether d alpha has the same sign in all windows that have one; null with fewer than two."""
    d_transport: Finite | None
    d_entropy: Finite
    d_effective_rank: Finite | None
    reason: str | None = None
    """Why ``d_contraction`` is null."""


class LayerDiff(Document):
    layer: int = Field(ge=0)
    depth: Finite
    positions: dict[Literal["last", "all"], PositionDiff]
    sign_disagreement: tuple[str, ...]
    """Members whose sign differs between the position policies."""


class TraceDiff(Document):
    """Layer-wise point differences of two traces, candidate minus reference."""

    schema_: Literal["spinal.diff/1"] = Field(default="spinal.diff/1", alias="schema")
    reference: Digest
    candidate: Digest
    fingerprint: Digest
    readout_moved: bool
    """Whether final norm or unembedding differ: part of d_transport and d_entropy may then be their doing."""
    layers: tuple[LayerDiff, ...]

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)
