"""Checkpoints of one training run against one reference, in order: the document ``spinal.series/1``
(``docs/method.md`` ("Training runs"))."""

from typing import Literal

from pydantic import ConfigDict, Field

from spinal.documents.base import Digest, Document, Finite, Remark
from spinal.documents.comparison import Outcome
from spinal.documents.display import ShownDocument, notebook_html

Status = Literal["destabilised", "watch", "inconclusive", "insufficient_series", "healthy"]
STATUSES: tuple[Status, ...] = ("destabilised", "inconclusive", "insufficient_series", "watch", "healthy")
"""Worst first, as a pipeline reads them."""
Role = Literal["damage", "early_warning"]
MemberState = Literal["waiting", "measured", "failed", "cancelled"]


class SeriesSettings(Document):
    """What a caller may say about how a series is judged. Everything else follows from the policy and the method."""

    plateau_from_step: int | None = Field(default=None, ge=0, le=2**53 - 1)
    """The first step of a plateau that the caller has approved: from here on the CUSUM looks, and nowhere else."""


class SeriesMember(Document):
    """One checkpoint of the run."""

    step: int = Field(ge=0)
    model: Remark
    """As it was named."""
    state: MemberState
    weights_digest: Digest | None = None
    comparison: Digest | None = None
    """Digest of its comparison with the reference."""
    audit: str | None = None
    """Id of its audit, where a service measured it."""
    verdict: Outcome | None = None
    """What the policy says of it alone."""
    verdict_reason: Remark | None = None
    """The first reason of that verdict."""
    beyond: tuple[Remark, ...] = ()
    """Rules on damage that fail it, waived ones left out: the first member of each is an alarm."""
    damage: Literal["none", "watch", "damaged"] | None = None
    """Level of its damage panel."""
    carried: dict[str, Finite] = Field(default_factory=dict)
    """Place -> share of the change of KL(reference || candidate) that it carries, in order of the places; empty where
    there is no account or it gives no shares. A row of the heat map over steps and depth."""
    reason: Remark | None = None
    """Why it is not measured, for a person."""


class SeriesPoint(Document):
    """One signal at one step."""

    step: int = Field(ge=0)
    value: Finite | None
    """As its comparison has it: candidate minus reference."""
    ci: tuple[Finite, Finite] | None = None
    se: Finite | None = None
    n: int | None = None
    """Prompts."""
    of: Remark | None = None
    """The category that it is about, where it is about one."""
    fall: Finite | None = None
    """How much worse than at the running best, paired over prompts, positive is worse; null for signals without a
    better side and where nothing can be paired."""
    fall_low: Finite | None = None
    """Lower end of the 95% interval of ``fall``."""
    distance: Finite | None = None
    """``fall`` / (sigma sqrt 2)."""
    best_step: int | None = None
    """Last step of the running best."""
    least_effect: Finite | None = None
    """What ``fall_low`` has to exceed here."""
    beyond: bool = False
    """Whether both hold: ``distance`` beyond the threshold, ``fall_low`` beyond ``least_effect``."""
    reason: Remark | None = None
    """Why there is no value."""


class ChangePoint(Document):
    """Where the slope of a signal changes (piecewise linear, at least four members on each side)."""

    step: int
    """The last step of the segment before."""
    change: Finite
    """How much the signal moved beyond the line before, over the segment after."""
    before: Finite
    """Slope before, per member."""
    after: Finite


class SeriesSignal(Document):
    """One signal over the steps."""

    label: Remark
    unit: str
    better: Literal["lower", "higher"] | None
    """Null where neither is: the signal moves in every healthy run, and only change points are looked for."""
    role: Role
    threshold: Finite | None = None
    """h: what ``distance`` has to exceed at two consecutive members."""
    sigma: Finite | None = None
    """Noise of one member, from the median of the paired standard errors."""
    least_effect: Finite | None = None
    """The smallest change that counts, in ``unit``; null where it follows the running best (see the points)."""
    points: tuple[SeriesPoint, ...] = ()
    change_points: tuple[ChangePoint, ...] = ()
    limit: Finite | None = None
    """The policy's limit on the value at any one member, whatever came before: from here on it is damage, on the side
    that is not ``better``; null where it has none."""
    needed: bool = False
    """Whether the policy asks for it, so that not having it makes a series inconclusive."""
    reason: Remark | None = None
    """Why it was not measured, or gives no alarm."""


class SeriesAlarm(Document):
    """One finding of one detector."""

    kind: Literal["drawdown", "limit", "change_point", "cusum"]
    signal: str
    role: Role
    step: int
    """When it is known: the second of two consecutive members beyond the threshold, or the member beyond a limit."""
    onset_step: int
    """The last step at which all was well: the last of the running best, or the last that is known to be within a limit
    that a later one is beyond; that member's own where there is none."""
    worse_from_step: int | None = None
    """The first step that is surely worse by as much as counts; the break lies between ``onset_step`` and this one."""
    of: Remark | None = None
    text: Remark


class Series(ShownDocument):
    """When a training run begins to destabilise, by the policy that it is judged under. Never a claim that a run is or
    is not aligned."""

    schema_: Literal["spinal.series/1"] = Field(default="spinal.series/1", alias="schema")
    digest: Digest
    """Over the reference, the members' comparisons and what these kept prompt by prompt, their verdicts, the policy and
    the settings."""
    status: Status
    onset_step: int | None
    """Of the first damage alarm; null without one."""
    worse_from_step: int | None = None
    first_alarm_step: int | None
    """The first step at which damage was known; null without a damage alarm."""
    first_warning_step: int | None = None
    """The first step at which early warning was known."""
    alarmed: tuple[str, ...]
    """Signals of damage that alarmed, first alarm first."""
    warned: tuple[str, ...] = ()
    """Signals of early warning that alarmed."""
    reasons: tuple[Remark, ...]
    """The answer in sentences, most important first."""
    alarms: tuple[SeriesAlarm, ...] = ()
    reference: Remark
    """As it was named."""
    reference_weights_digest: Digest | None = None
    policy: str
    """Name and version."""
    policy_digest: Digest
    settings: SeriesSettings = SeriesSettings()
    labels: dict[str, str] = Field(default_factory=dict)
    closed: bool = True
    """Whether no member can come any more."""
    members: tuple[SeriesMember, ...]
    """By step."""
    signals: dict[str, SeriesSignal]
    """Damage first, in the panel's order, then early warning."""
    remarks: tuple[Remark, ...] = ()
    """What was not looked at, and what else a reader has to know."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    def summary(self) -> str:
        """The run, how many members, the status and where it began, on one line."""
        began = f" after step {self.onset_step}" if self.onset_step is not None else ""
        return f"{self.reference}, {len(self.members)} checkpoints, {self.status}{began}"

    def _repr_html_(self) -> str:
        return notebook_html(self)
