"""Two traces against each other: the document ``spinal.comparison/1`` (``docs/architecture.md`` ("Documents"))."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field

from spinal.documents.base import Digest, Document, Estimate, Finite, Provenance
from spinal.documents.display import (
    ShownDocument,
    data_frame,
    estimate_columns,
    notebook_html,
    short_digest,
    short_name,
)

if TYPE_CHECKING:
    import pandas

NO_CHANGE = "no_detectable_change"
"""Reason of a localization that was measured and found nothing to place."""


class Side(Document):
    """One side of a comparison."""

    digest: Digest
    source: str
    weights_digest: Digest


class ByPolicy(Document):
    last: Estimate
    all: Estimate


class ContractionDifference(ByPolicy):
    """d alpha at both positions, with the sign in each window and whether all agree."""

    window_agreement: dict[Literal["last", "all"], bool | None]


class LayerComparison(Document):
    """Node ``layer``; block-wise members belong to block ``layer`` and are null at layer 0."""

    layer: int = Field(ge=0)
    depth: Finite
    d_contraction: ContractionDifference
    d_transport: ByPolicy
    d_transport_fixed_lens: ByPolicy
    d_entropy: ByPolicy
    function_gap: ByPolicy
    block_swap: Estimate
    block_swap_transport: Estimate
    weight_change: Finite | None
    sign_disagreement: tuple[str, ...] = ()
    """Members whose sign differs between positions ``last`` and ``all``."""


class Localization(Document):
    """Where one profile w over blocks 1..D concentrates (``docs/method.md`` ("Where the change sits")). Without a
    detectable change every member is null and ``reason`` says why."""

    center: Finite | None
    """Centre of mass of q = w / sum w on x = l / D."""
    spread: Finite | None
    window50: tuple[int, int] | None
    """Smallest contiguous run of blocks holding half of w (first, last)."""
    window80: tuple[int, int] | None
    gini: Finite | None
    effective_blocks: Finite | None
    terminal_share: Finite | None
    terminal_share_null: Finite
    """|T| / D: the share if w were flat."""
    peak: int | None
    ci: dict[str, tuple[Finite, Finite]]
    """95% intervals of center, spread, terminal_share, gini, effective_blocks, where w has replicates."""
    peak_support: Finite | None = None
    """Share of bootstrap draws that name the same peak."""
    reason: str | None = None


class Scores(Document):
    """Strength of the signature over the terminal window T (``docs/method.md`` ("How strong it is"))."""

    delta_align: Finite | None
    contraction_rise: Finite | None
    """A: relative rise of mean alpha over T; negative is "expansion"."""
    transport_fall: Finite | None
    """B: relative fall of mean L over T."""
    coherence: Finite | None
    """S: chord / arc of the candidate's curve over T, in (0, 1]."""
    coherence_reference: Finite | None
    footprint: Finite | None
    """G: mean terminal share of the weight, block-swap and function profiles."""
    spinal_score: Finite | None
    weights: dict[str, Finite]
    policy: Literal["last", "all"]
    terminal_window: tuple[int, int]
    ci: dict[str, tuple[Finite, Finite]]
    mde: dict[str, Finite]
    companions: dict[str, Finite | None]
    """turning angle, Kendall taus, entropy roughness, directness of both sides."""
    reasons: dict[str, str]


class DamageSignal(Document):
    value: Finite | None
    watch: Finite | None
    """Threshold of ``watch``; null where the signal is shown but does not vote."""
    damaged: Finite | None
    level: Literal["none", "watch", "damaged"] | None
    unit: str
    reason: str | None = None


class Damage(Document):
    level: Literal["none", "watch", "damaged"]
    signals: dict[str, DamageSignal]
    calibration: str
    """What the thresholds were taken from, in words."""


class Null(Document):
    """One control: the statistic's value under it and where the observed value falls."""

    statistic: str
    values: tuple[Finite, ...]
    observed: Finite | None
    percentile: Finite | None
    """Share (0-100) of the values below the observed one, ties counted half; null with fewer than two values."""
    note: str
    contrast: dict[str, Estimate] = Field(default_factory=dict)
    """Candidate minus control per score, paired over prompts (null ``control`` only)."""


Outcome = Literal["pass", "warn", "fail", "inconclusive"]


class RuleOutcome(Document):
    """What one rule of a policy made of a comparison."""

    rule: str
    outcome: Outcome
    reasons: tuple[str, ...]
    """Empty where the rule found nothing."""


class Verdict(Document):
    """What a release gate reads. Never a claim that a model is or is not aligned."""

    outcome: Outcome
    policy: str
    reasons: tuple[str, ...]
    rules: tuple[RuleOutcome, ...] = ()
    """Every rule that was asked, in their order; empty in verdicts of releases before rules were kept."""
    weights: dict[str, Digest] = Field(default_factory=dict)
    """Weights digests of everything that was judged, by role; empty in verdicts of releases before they were kept."""


class ComparisonContent(ShownDocument):
    """What a comparison measured, the same for every policy. Differences are candidate minus reference."""

    schema_: Literal["spinal.comparison/1"] = Field(default="spinal.comparison/1", alias="schema")
    digest: Digest
    reference: Side
    candidate: Side
    control: Side | None = None
    """The checkpoint the caller named as control, if any."""
    fingerprint: Digest
    profile: dict[str, object]
    scorer_version: str
    identical: bool
    """Whether both sides have the same weights digest."""
    readout_moved: bool
    layers: tuple[LayerComparison, ...]
    weight_change_other: dict[str, Finite]
    localization: dict[str, Localization]
    """By the name of the locator (``spinal.analysis.locators``)."""
    scores: Scores
    damage: Damage
    nulls: dict[str, Null]
    warnings: tuple[str, ...]
    provenance: Provenance

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    def summary(self) -> str:
        """The pair, its depth and the digest, on one line."""
        pair = f"{short_name(self.reference.source)} → {short_name(self.candidate.source)}"
        return f"{pair}, {len(self.layers) - 1} blocks, digest {short_digest(self.digest)}"


class Comparison(ComparisonContent):
    """A comparison as it is handed out: what was measured, and beside it the verdict of one policy. Differences are
    candidate minus reference."""

    verdict: Verdict

    @classmethod
    def of(cls, content: ComparisonContent, verdict: Verdict) -> "Comparison":
        """``content`` with ``verdict`` beside it, in place of another where it has one."""
        members = {name: getattr(content, name) for name in ComparisonContent.model_fields}
        return cls.model_construct(**members, verdict=verdict)

    def summary(self) -> str:
        """The pair, its depth, the verdict and the digest, on one line."""
        pair = f"{short_name(self.reference.source)} → {short_name(self.candidate.source)}"
        return (
            f"{pair}, {len(self.layers) - 1} blocks, verdict {self.verdict.outcome}, digest {short_digest(self.digest)}"
        )

    def _repr_html_(self) -> str:
        return notebook_html(self)

    def to_pandas(self) -> "pandas.DataFrame":
        """The comparison as a table, one row for each layer.

        Returns
        -------
        pandas.DataFrame
            Columns ``layer`` (0..D), ``depth`` (0..1), and for every difference its value and the ends of its 95%
            interval, for example ``d_transport_all``, ``d_transport_all_low`` and ``d_transport_all_high`` (radians,
            candidate minus reference, positions ``all``). ``weight_change`` has no interval. Missing values where the
            document has null.

        Raises
        ------
        UsageError
            pandas is not installed.

        Examples
        --------
        >>> import spinal
        >>> prompts = [f"Human: how do I plant tree number {n}?" for n in range(24)]
        >>> pair = "examples/checkpoints/sft", "examples/checkpoints/dpo-short"
        >>> found = spinal.compare(*pair, prompts=prompts, max_tokens=16, lens_positions=2, swap_prompts=8)
        >>> table = found.to_pandas()
        >>> known = table["block_swap"].notna()
        >>> bool((table["block_swap_low"] <= table["block_swap"])[known].all())
        True
        """
        return data_frame([_table_row(layer) for layer in self.layers])


def _table_row(layer: LayerComparison) -> dict[str, Any]:
    row: dict[str, Any] = {"layer": layer.layer, "depth": layer.depth}
    for name in ("d_contraction", "d_transport", "d_transport_fixed_lens", "d_entropy", "function_gap"):
        both = getattr(layer, name)
        row |= estimate_columns(f"{name}_last", both.last) | estimate_columns(f"{name}_all", both.all)
    for name in ("block_swap", "block_swap_transport"):
        row |= estimate_columns(name, getattr(layer, name))
    return row | {"weight_change": layer.weight_change}
