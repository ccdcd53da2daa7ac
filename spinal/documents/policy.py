"""What a release gate asks: the document ``spinal.policy/1`` (``docs/policies.md``). Rules as data, no code.

One class and one entry of ``Rule`` for each kind; how a kind is judged stands in ``spinal.policy.kinds``.
"""

import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from spinal.documents.base import Document, Finite, Remark
from spinal.documents.canonical import digest_of
from spinal.documents.comparison import Outcome

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}/[1-9][0-9]{0,5}$"
"""Name and version of a policy: ``acme-release/3``."""
RULE_NAME = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
MOST_RULES = 200
Side = Literal["above", "below"]
Severity = Literal["fail", "warn"]
Decides = Literal["near_end", "value", "far_end"]


def _number(given: Any) -> Any:
    """A word that YAML reads as true is no limit of 1, and a text is none of whatever it may be read as."""
    if isinstance(given, bool):
        raise ValueError("true and false are no numbers")
    if isinstance(given, str | bytes):
        raise ValueError("a number is written without quotes")
    return given


def _printable(path: str) -> str:
    if not path.isprintable():
        raise ValueError("holds characters that nobody sees")
    return path


Number = Annotated[Finite, BeforeValidator(_number)]
ValuePath = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
"""Where a value stands: ``damage.nll_change``. ``spinal.policy.values`` lists them."""


def _day(given: Any) -> Any:
    """A day, and no number or time that could be read as one."""
    if type(given) is date or (isinstance(given, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", given)):
        return given
    raise ValueError("a day is written as year-month-day, for example 2027-01-31")


def _said(reason: str) -> str:
    if not reason.strip():
        raise ValueError("says nothing")
    return reason


class Waiver(Document):
    """A finding that is known and accepted for a while: it is told and does not count."""

    reason: Annotated[Remark, Field(min_length=1), AfterValidator(_said)]
    expires: Annotated[date, BeforeValidator(_day)]
    """Its last day, in UTC."""


class AnyRule(Document):
    """What every kind of rule has."""

    name: str = Field(pattern=RULE_NAME)
    asks: Remark = ""
    """The question in words."""
    waiver: Waiver | None = None


class ValueLimit(Document):
    """Whether a value is beyond a limit."""

    value: ValuePath
    bad: Side
    """The side of ``limit`` on which the value is bad; at the limit it is bad."""
    limit: Number
    decides: Decides = "near_end"


class LimitRule(AnyRule):
    """A value with its interval against a limit."""

    kind: Literal["limit"] = "limit"
    value: ValuePath
    """Where the value stands: ``damage.nll_change``, ``accounts.kl.last_third``, ``categories.code.nll_change``,
    ``contrasts.margin.total`` (candidate minus control), ``former.damage.nll_change`` (minus the former audit's)."""
    bad: Side
    """The side of ``limit`` on which the value is bad; at the limit it is bad."""
    limit: Number
    severity: Severity
    decides: Decides = "near_end"
    """What has to be beyond the limit: the end of the interval that is nearer to good (surely bad), the value, or the
    other end (not surely good)."""
    minimum_effect: Annotated[Number, Field(ge=0)] = 0.0
    """How far from no change the value itself has to be before the rule finds anything, in its unit."""
    watch: Number | None = None
    """A milder limit, from where on the value itself is a warning."""
    watch_surely_beyond: Number | None = None
    """What the near end of an interval has to be beyond, too, before ``watch`` warns."""
    unmeasured: Outcome = "inconclusive"
    """What it means that there is no value, or none with the interval that ``decides`` needs."""
    not_asked: Outcome | None = None
    """What it means that profile, prompts or model give no such value, or the comparison has no control or former one;
    as ``unmeasured`` where absent."""
    unsure: Outcome = "pass"
    """What it means that the value is beyond the limit and its near end is not."""

    @model_validator(mode="after")
    def _ordered(self) -> "LimitRule":
        if self.watch is None:
            if self.watch_surely_beyond is not None:
                raise ValueError("watch_surely_beyond: without a watch it means nothing")
            return self
        if (self.watch > self.limit) if self.bad == "above" else (self.watch < self.limit):
            raise ValueError(f"watch: {self.watch:g} lies beyond the limit {self.limit:g}")
        return self


class AgreementRule(AnyRule):
    """Values that decide nothing one by one and agree, while another is raised."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    kind: Literal["agreement"]
    severity: Severity
    among: Annotated[tuple[ValueLimit, ...], Field(min_length=1, max_length=MOST_RULES)]
    at_least: Annotated[int, Field(ge=1), BeforeValidator(_number)]
    """How many of ``among`` have to be beyond their limits."""
    while_: ValueLimit = Field(alias="while")
    """What is beyond its limit at the same time. The rule says nothing where another one fails on that value."""
    unmeasured: Outcome = "inconclusive"
    """What it means that values are missing that could make up the number."""

    @model_validator(mode="after")
    def _possible(self) -> "AgreementRule":
        different = len({test.value for test in self.among})
        if self.at_least > different:
            raise ValueError(f"at_least: {self.at_least} of {different} values can never agree")
        return self


class SettingsRule(AnyRule):
    """Another configuration that computes something else: whoever changed it, it was not trained."""

    kind: Literal["settings"]
    severity: Severity = "warn"
    allowed: Annotated[tuple[str, ...], Field(max_length=MOST_RULES)] = ()
    """Keys that may differ."""
    same_output: Annotated[Number, Field(ge=0)] = 5e-3
    """Radians at the last node within which two models say the same: what rounding in 16 bits makes of one model."""
    unmeasured: Outcome = "inconclusive"
    """What it means that such keys differ and whether the output moved was not measured."""


class PanelRule(AnyRule):
    """The damage panel's own level where no rule of the policy says why, and its signals that no rule asks for."""

    kind: Literal["panel"]


class NotLookedAtRule(AnyRule):
    """What the verdict does not cover. Every verdict says so; with this rule it stands among the rules, too."""

    kind: Literal["not_looked_at"]


def _kind(rule: Any) -> str | None:
    """A rule that names no kind is a limit."""
    found = rule.get("kind", "limit") if isinstance(rule, dict) else getattr(rule, "kind", None)
    return found if isinstance(found, str) else None


Rule = Annotated[
    Annotated[LimitRule, Tag("limit")]
    | Annotated[AgreementRule, Tag("agreement")]
    | Annotated[SettingsRule, Tag("settings")]
    | Annotated[PanelRule, Tag("panel")]
    | Annotated[NotLookedAtRule, Tag("not_looked_at")],
    Discriminator(_kind),
]


class Policy(Document):
    """A versioned set of rules. The verdict is the worst outcome that a rule finds."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    schema_: Literal["spinal.policy/1"] = Field(default="spinal.policy/1", alias="schema")
    name: str = Field(pattern=NAME)
    description: Remark = ""
    quiet: Remark = ""
    """What a verdict of pass says first; without it, that no rule of the policy found anything."""
    rules: Annotated[tuple[Rule, ...], Field(min_length=1, max_length=MOST_RULES)]

    @model_validator(mode="after")
    def _told_apart(self) -> "Policy":
        names = [rule.name for rule in self.rules]
        twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
        if twice is not None:
            raise ValueError(f"rules: two are called {twice!r}")
        return self

    def spelled_out(self) -> dict[str, Any]:
        """Every member with its default: what the digest covers and the ledger stores."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of all members: what a verdict names."""
        return digest_of(self.spelled_out())
