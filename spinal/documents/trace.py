"""The depth trace of one checkpoint: the document ``spinal.trace/1`` (``docs/architecture.md`` ("Documents"))."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from spinal.documents.base import Digest, Document, Finite, Provenance, Remark
from spinal.documents.canonical import SCHEMES, digest_of
from spinal.documents.display import ShownDocument, data_frame, notebook_html, short_digest, short_name
from spinal.documents.editions import FORMER, PRESENT, Edition
from spinal.profile import MeasurementProfile

if TYPE_CHECKING:
    import pandas

POSITIONS = ("last", "all")
"""Which positions of a prompt are read: its last one; every one but the first."""
WINDOWS = ("bulk", "body", "wide", "tail")
"""Rank windows of the contraction fit."""


class ModelIdentity(Document):
    """The checkpoint a trace belongs to."""

    source: str
    """Reference as resolved, e.g. ``local:sft`` (never a path of the machine that measured)."""
    revision: str | None
    weights_digest: Digest
    """Over safetensors, config, tokenizer and adapter: independent of where the files lie."""
    architecture: str
    n_layers: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    vocab_size: int = Field(ge=2)
    tied_embeddings: bool
    readout_digest: Digest
    """Over final norm and unembedding as loaded: tells whether the read-out moved between two checkpoints."""


class PromptSetIdentity(Document):
    digest: Digest
    name: str | None = None
    count: int = Field(ge=1)
    truncated: int = Field(ge=0)
    """Prompts of which only the last ``max_tokens`` tokens were read."""
    tokens: int = Field(ge=1)
    """Tokens read over all prompts."""
    token_ids_digest: Digest
    """Over the token ids fed to the model: both sides of a pair must agree."""
    continuation_ids_digest: Digest | None = None
    """The same of prompts with their own continuations; None where none has one, and in traces of releases before."""


class Reading(Document):
    """How a checkpoint was read, where that is not its own way: with its tokenizer, up to the ids that both this and
    the read-out know. Without a member it was read its own way."""

    tokenizer: Digest | None = None
    """Over the tokenizer files that were used, where they are not the checkpoint's own
    (:func:`spinal.checkpoints.tokenizer.tokenizer_digest`)."""
    vocabulary: int | None = Field(default=None, ge=1)
    """Ids 0..n-1 were read, where the checkpoint's own are more: the ids that all sides of a comparison share."""

    @property
    def members(self) -> dict[str, object]:
        """What is said, by name; empty where a checkpoint was read its own way."""
        return self.model_dump(exclude_none=True)


OWN_WAY = Reading()
NOTABLE = 1e-3
"""Share of the probability on ids that are not read, from which on there is a remark on it."""


class VocabularyRead(Document):
    """Which ids the next-token distributions hold."""

    ids: int = Field(ge=1)
    """Ids 0..n-1 are read; the rows of the unembedding beyond are not."""
    outside: Finite = Field(ge=0.0, le=1.0)
    """Share of the probability of the model's own output that lies beyond those ids, at positions ``all``; 0 where
    every row is read."""

    def remark(self, rows: int) -> str:
        """The same in words, of a model whose unembedding has so many rows."""
        return (
            f"ids 0..{self.ids - 1} of {rows} are read; those beyond hold {self.outside:.2g} of the probability of the "
            "model's own output"
        )


class EngineIdentity(Document):
    version: str
    device: str
    dtype: str
    torch: str
    transformers: str


class WindowFit(Document):
    """Least-squares fit of log sigma_k on log k over ranks k_min..k_max (from 1)."""

    alpha: Finite | None
    alpha_se: Finite | None = None
    curvature: Finite | None
    """Quadratic coefficient of the log-log fit."""
    curved: bool | None = None
    """Whether ``|curvature| > 0.1 alpha``: the tail is not a power law there."""
    k_min: int
    k_max: int
    reason: str | None = None


class PositionTrace(Document):
    """One node at one choice of positions. Means are taken inside a prompt first, then over prompts."""

    contraction: Finite | None
    """alpha of the default window of these positions: -d log sigma_k / d log k. Higher = stronger contraction."""
    contraction_se: Finite | None
    contraction_windows: dict[Literal["bulk", "body", "wide", "tail"], WindowFit]
    contraction_reason: str | None
    contraction_half_sample: Finite | None
    """alpha from a random half of the prompts minus alpha from all: the finite-sample index."""
    underdetermined: bool
    """n < 2d: differences of alpha are attenuated or inflated by x1.03-1.26."""
    rows: int
    rank: int
    transport: Finite | None = Field(ge=0.0, le=3.1415927)
    """L into this node (arrival), radians in [0, pi]; null at layer 0."""
    transport_se: Finite | None
    transport_reason: str | None = None
    entropy: Finite
    """Nats, of the lens distribution at this node."""
    entropy_se: Finite | None = None
    max_probability: Finite
    argmax_agreement: Finite
    """Share of positions whose lens argmax equals that of the model's own output."""
    effective_rank: Finite | None
    participation_ratio: Finite | None
    top_share: Finite | None


class LayerTrace(Document):
    layer: int = Field(ge=0)
    depth: Finite
    positions: dict[Literal["last", "all"], PositionTrace]


TABLE_COLUMNS = (
    "contraction", "contraction_se", "transport", "transport_se", "entropy", "entropy_se", "max_probability",
    "argmax_agreement", "effective_rank", "participation_ratio", "top_share", "rows", "rank", "underdetermined",
)  # fmt: skip
"""Members of a position's trace that :meth:`Trace.to_pandas` shows."""


class Trace(ShownDocument):
    """Depth trace of one checkpoint over nodes 0..D. Identity: see :func:`trace_digest`."""

    schema_: Literal["spinal.trace/1"] = Field(default="spinal.trace/1", alias="schema")
    digest: Digest
    model: ModelIdentity
    prompt_set: PromptSetIdentity
    profile: dict[str, object]
    """Every knob, plus ``fingerprint``."""
    engine: EngineIdentity
    parity_rad: Finite
    """Mean Fisher-Rao distance between lens(r_D) and the model's own output."""
    nll: Finite | None
    """Nats per token of the prompts' own continuations, or of the prompts where the set has none."""
    nll_source: Literal["continuations", "prompts"] | None
    non_finite: int = Field(ge=0)
    """Non-finite activations met (a trace with any is refused; kept for the damage panel)."""
    layers: tuple[LayerTrace, ...] = Field(min_length=2)
    warnings: tuple[Remark, ...]
    provenance: Provenance
    reading: Reading = OWN_WAY
    vocabulary: VocabularyRead | None = None
    """None in traces of releases before it was kept."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if [layer.layer for layer in self.layers] != list(range(self.model.n_layers + 1)):
            raise ValueError(f"layers must run 0..{self.model.n_layers} without a gap")
        for layer in self.layers:
            if set(layer.positions) != set(POSITIONS):
                raise ValueError(f"layer {layer.layer} lacks positions 'last' or 'all'")
        expected = trace_digest(
            self.model.weights_digest, self.prompt_set.digest, self.fingerprint, self.engine.version, self.reading
        )
        if self.digest != expected:
            raise ValueError("digest does not recompute from the identity fields")
        return self

    @property
    def fingerprint(self) -> str:
        return str(self.profile["fingerprint"])

    def summary(self) -> str:
        """Checkpoint, depth, number of prompts and digest, on one line."""
        return (
            f"{short_name(self.model.source)}, {self.model.n_layers} blocks, {self.prompt_set.count} prompts, "
            f"digest {short_digest(self.digest)}"
        )

    def _repr_html_(self) -> str:
        return notebook_html(self)

    def to_pandas(self) -> "pandas.DataFrame":
        """The trace as a table, one row for each layer and choice of positions.

        Returns
        -------
        pandas.DataFrame
            Columns ``layer`` (0..D), ``depth`` (0..1), ``positions`` (``last`` or ``all``) and the numbers of the
            position: alpha (``contraction``), L in radians (``transport``), entropy in nats, and their companions,
            with standard errors in ``*_se``. Missing values where the document has null.

        Raises
        ------
        UsageError
            pandas is not installed.

        Examples
        --------
        >>> import spinal
        >>> prompts = [f"Human: how do I plant tree number {n}?" for n in range(24)]
        >>> found = spinal.trace("examples/checkpoints/sft", prompts=prompts, max_tokens=16, lens_positions=2)
        >>> table = found.to_pandas()
        >>> table.shape[0] == 2 * (found.model.n_layers + 1)
        True
        >>> float(table["transport"].max()) <= 3.1416
        True
        """
        return data_frame(
            [
                {"layer": layer.layer, "depth": layer.depth, "positions": str(name)}
                | {column: getattr(position, column) for column in TABLE_COLUMNS}
                for layer in self.layers
                for name, position in layer.positions.items()
            ]
        )

    def remarked(self, remarks: Iterable[str]) -> "Trace":
        """The trace with further warnings, for one reader: what lay beside what was read is no part of it."""
        return self.model_copy(update={"warnings": (*self.warnings, *remarks)})

    @property
    def scheme(self) -> str | None:
        """The scheme under which the fingerprint follows from the stored knobs; None where it follows under none."""
        profile = self.measurement_profile()
        return next((name for name in SCHEMES if profile.fingerprint_under(name) == self.fingerprint), None)

    def measurement_profile(self) -> MeasurementProfile:
        """The stored knobs as a profile value. What names no profile is of the first one, whatever is the default."""
        stored = {knob: value for knob, value in self.profile.items() if knob != "fingerprint"}
        return MeasurementProfile.model_validate({"name": "spinal/1"} | stored)


def stamp_profile(profile: MeasurementProfile, edition: Edition = PRESENT) -> dict[str, object]:
    """The profile as it is stored in documents: every knob that the edition knows, plus its fingerprint."""
    unknown = profile.table().keys() - profile.known_before() if edition == FORMER else set()
    return {
        **profile.model_dump(mode="json", exclude=unknown),
        "fingerprint": profile.fingerprint_under(edition.scheme),
    }


def trace_digest(
    weights_digest: str, prompt_digest: str, fingerprint: str, engine_version: str, reading: Reading = OWN_WAY
) -> str:
    """Identity of a trace: what was measured, on what, how, and by which engine version. How the checkpoint was read
    enters where that is not its own way: under two tokenizers or two vocabularies it has two traces."""
    return digest_of(
        {
            "schema": "spinal.trace/1",
            "weights": weights_digest,
            "prompts": prompt_digest,
            "fingerprint": fingerprint,
            "engine": engine_version,
        }
        | ({"reading": reading.members} if reading.members else {})
    )
