"""What a release gate asks: the document ``spinal.policy/1`` (``docs/policies.md``). Rules as data, no code."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from spinal.documents.base import Document, Finite, Remark
from spinal.documents.comparison import Outcome

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}/[1-9][0-9]{0,5}$"
"""Name and version of a policy: ``acme-release/3``."""
RULE_NAME = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
Side = Literal["above", "below"]


class Waiver(Document):
    """A finding that is known and accepted for a while: it is told and does not count."""

    reason: Remark = Field(min_length=1)
    expires: date
    """Its last day, in UTC."""


class LimitRule(Document):
    """A value with its interval against a limit."""

    kind: Literal["limit"] = "limit"
    name: str = Field(pattern=RULE_NAME)
    asks: Remark = ""
    """The question in words."""
    value: str
    """Where the value stands: ``damage.nll_change``, ``accounts.kl.last_third``, ``categories.code.nll_change``,
    ``contrasts.margin.total`` (candidate minus control), ``former.damage.nll_change`` (minus the former audit's)."""
    bad: Side
    """The side of ``limit`` on which the value is bad."""
    limit: Finite
    severity: Literal["fail", "warn"]
    decides: Literal["near_end", "value", "far_end"] = "near_end"
    """What has to be beyond the limit: the end of the interval that is nearer to good (surely bad), the value, or the
    other end (not surely good)."""
    minimum_effect: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """How far from no change the value itself has to be before the rule finds anything, in its unit."""
    unmeasured: Outcome = "inconclusive"
    """What it means that there is no value, or none with the interval that ``decides`` needs."""
    unsure: Outcome = "pass"
    """What it means that the value is beyond the limit and its near end is not."""
    waiver: Waiver | None = None


class Policy(Document):
    """A versioned set of rules. The verdict is the worst outcome that a rule finds."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    schema_: Literal["spinal.policy/1"] = Field(default="spinal.policy/1", alias="schema")
    name: str = Field(pattern=NAME)
    description: Remark = ""
    rules: Annotated[tuple[LimitRule, ...], Field(min_length=1)]

    def spelled_out(self) -> dict[str, Any]:
        """Every member with its default: what the digest covers and the ledger stores."""
        return self.model_dump(mode="json", by_alias=True)
