"""Two traces against each other: the document ``spinal.comparison/1`` (``docs/architecture.md`` ("Documents"))."""

from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field

from spinal.documents.account import Account, AccountContrast
from spinal.documents.base import Digest, Document, Estimate, Finite, Provenance, Remark
from spinal.documents.display import (
    ShownDocument,
    data_frame,
    estimate_columns,
    notebook_html,
    short_digest,
    short_name,
)
from spinal.documents.localization import Localization

if TYPE_CHECKING:
    import pandas


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
    """G: mean terminal share of the block-swap and function profiles."""
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
    n: int | None = None
    """Prompts that it was measured on."""
    se: Finite | None = None
    ci: tuple[Finite, Finite] | None = None
    of: str | None = None
    """The category that it is about, where it is about one."""
    fails_alone: bool = False
    """Whether a level of ``damaged`` is enough by itself."""


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
WORST_FIRST: tuple[Outcome, ...] = ("fail", "inconclusive", "warn", "pass")
"""What a gate that cannot tell says stands between what it refuses and what it lets through."""


class Waived(Document):
    """A waiver that held when a rule was asked: the rule's finding is told and does not count."""

    reason: Remark
    expires: date
    """Its last day, in UTC."""
    would_be: Outcome
    """What the rule found."""


class RuleOutcome(Document):
    """What one rule of a policy made of a comparison."""

    rule: str
    outcome: Outcome
    """``pass`` where a waiver holds; see ``waived``."""
    reasons: tuple[str, ...]
    """Empty where the rule found nothing."""
    asks: Remark = ""
    """The question in words; empty in verdicts of releases before it was kept."""
    severity: Literal["fail", "warn"] | None = None
    """The worst that it can say of a measured value; null where it says nothing of one."""
    path: str | None = None
    """Where the value stands, as a policy names it: ``damage.nll_change``. Null for rules on no single value."""
    of: str | None = None
    """What the value is about where that is one of many, for example a category."""
    value: Finite | None = None
    ci: tuple[Finite, Finite] | None = None
    unit: str = ""
    bad: Literal["above", "below"] | None = None
    """The side of ``limit`` on which the value is bad."""
    limit: Finite | None = None
    waived: Waived | None = None


class Verdict(Document):
    """What a release gate reads. Never a claim that a model is or is not aligned."""

    outcome: Outcome
    policy: str
    """Name and version, for example ``spinal-default/2``."""
    policy_digest: Digest | None = None
    """Of the policy document; null in verdicts of releases before policies were documents."""
    decided_by: str | None = None
    """The rule whose finding makes the outcome: the first of the worst. Null where nothing was found."""
    reasons: tuple[str, ...]
    rules: tuple[RuleOutcome, ...] = ()
    """Every rule that was asked, in their order; empty in verdicts of releases before rules were kept."""
    weights: dict[str, Digest] = Field(default_factory=dict)
    """Weights digests of everything that was judged, by role; empty in verdicts of releases before they were kept."""
    former: Digest | None = None
    """Digest of the former comparison that rules on ``former.`` values read, if one was there."""


class SettingDifference(Document):
    """A key on which configuration, generation configuration or chat template of the two sides differ."""

    part: str
    key: str
    reference: Remark | None
    candidate: Remark | None
    computes: bool
    """Whether it shapes what the model computes from token ids."""


class Frame(Document):
    """Whether the two sides write their residuals in one basis (``docs/method.md`` ("Floors and frames"))."""

    changed: bool
    residual: Finite | None
    """Share of the candidate's last residual that the best orthogonal map with scale of the reference's leaves over;
    null where the gap is too large for another basis to be the reason."""
    gap: Finite | None
    """Mean distance (radians) of next-token distributions at node D."""


class Statement(Document):
    """A sentence on where the change sits or what carries it, with what a flat profile would have given."""

    about: str
    """``block_swap``, or the read-out of an account: ``kl``, ``margin``, ``refusal``; ``settings``, ``weights``."""
    kind: Literal["unchanged", "outside", "outlier", "band", "spread", "none", "not_measured"]
    text: Remark
    null: Remark | None = None
    blocks: tuple[tuple[int, int], ...] = ()


class PromptChange(Document):
    """How one prompt's numbers moved, candidate minus reference."""

    prompt: int
    """Its place among the prompts that were read, from 1: those of fewer than two tokens are not counted."""
    category: str | None
    gap: Finite | None
    """Radians, at node D."""
    nll_change: Finite | None
    entropy_change: Finite | None
    top_changed: Finite | None
    """Share of read positions whose most likely token differs."""
    block_swap: Finite | None
    """Mean over blocks."""


class Looked(Document):
    """How many prompts of a category were scored, swapped, accounted for and continued."""

    category: str | None
    prompts: int
    scored: int
    swapped: int
    accounted: int
    continued: int
    nll_change: Estimate | None = None
    """Mean over those that were scored, nats a token; its interval is not corrected for looking at many categories.
    Null in comparisons of releases before it was kept."""


class Curve(Document):
    """One side's own numbers at the nodes 0..D, as its trace has them; null where it has none."""

    contraction: tuple[Finite | None, ...]
    """alpha."""
    contraction_se: tuple[Finite | None, ...]
    transport: tuple[Finite | None, ...]
    """L into the node, radians; null at node 0."""
    transport_se: tuple[Finite | None, ...]


class SideCurves(Document):
    """The curves of one side at both choices of positions."""

    last: Curve
    all: Curve


class PromptSignal(Document):
    """A signal of the damage panel before it is averaged: what members of a series are paired over."""

    prompts: tuple[int, ...]
    """Places among the prompts that were read, from 1, ascending."""
    values: tuple[Finite, ...]
    """Candidate minus reference, one for each of ``prompts``."""
    categories: tuple[str | None, ...] = ()
    """The category of each prompt; empty where nothing tells prompts apart."""


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
    accounts: dict[str, Account] = Field(default_factory=dict)
    """What carries the change, by read-out."""
    control_accounts: dict[str, Account] = Field(default_factory=dict)
    noise_accounts: dict[str, Account] = Field(default_factory=dict)
    account_contrasts: dict[str, AccountContrast] = Field(default_factory=dict)
    """Candidate minus control, by read-out."""
    settings: tuple[SettingDifference, ...] = ()
    frame: Frame | None = None
    unchanged_blocks: tuple[int, ...] = ()
    """Blocks that are the same on both sides: tensors, configuration and arguments."""
    statements: tuple[Statement, ...] = ()
    """Where, in words: what a report, a verdict and the terminal say."""
    prompt_changes: tuple[PromptChange, ...] = ()
    """The prompts that moved most, first."""
    looked_at: tuple[Looked, ...] = ()
    curves: dict[Literal["reference", "candidate", "control"], SideCurves] = Field(default_factory=dict)
    """Each side's own depth curves; empty in comparisons of releases before they were kept."""
    by_prompt: dict[str, PromptSignal] = Field(default_factory=dict)
    """Signals prompt by prompt, by name: ``nll_change``, ``end_share_change``, ``end_log_p_change``, ``margin_change``,
    ``gap``. Empty in comparisons of releases before they were kept: such a member is not paired."""
    warnings: tuple[Remark, ...]
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
