"""Two stored traces against each other, layer by layer: the document ``spinal.diff/1``."""

from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field

from spinal.documents.base import Digest, Document, Finite
from spinal.documents.display import ShownDocument, data_frame, short_digest

if TYPE_CHECKING:
    import pandas


class PositionDiff(Document):
    """Candidate minus reference at one node and choice of positions; null where either side is null."""

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
    """Members whose sign differs between positions ``last`` and ``all``."""


class TraceDiff(ShownDocument):
    """Layer-wise point differences of two traces, candidate minus reference."""

    schema_: Literal["spinal.diff/1"] = Field(default="spinal.diff/1", alias="schema")
    reference: Digest
    candidate: Digest
    fingerprint: Digest
    readout_moved: bool
    """Whether final norm or unembedding differ: part of d_transport and d_entropy may then be their doing."""
    layers: tuple[LayerDiff, ...]

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    def summary(self) -> str:
        """Both traces and their depth, on one line."""
        return f"{short_digest(self.reference)} → {short_digest(self.candidate)}, {len(self.layers) - 1} blocks"

    def to_pandas(self) -> "pandas.DataFrame":
        """The diff as a table, one row for each layer and choice of positions; raises UsageError without pandas."""
        columns = ("d_contraction", "d_transport", "d_entropy", "d_effective_rank", "window_agreement")
        return data_frame(
            [
                {"layer": layer.layer, "depth": layer.depth, "positions": str(name)}
                | {column: getattr(position, column) for column in columns}
                for layer in self.layers
                for name, position in layer.positions.items()
            ]
        )
