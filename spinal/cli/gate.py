"""The policy that a command judges by, and the exit code that follows from its verdict."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from spinal.documents.comparison import Comparison, Outcome
from spinal.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from spinal.documents.policy import Policy

FailsOn = Literal["fail", "warn"]


@dataclass(frozen=True)
class Gate:
    """What a verdict is made by, and what of it fails a pipeline."""

    policy: "Policy | None"
    """None for the default policy."""
    fail_on: FailsOn
    former: Comparison | None
    """What rules on ``former.`` values are read against."""

    def judge(self, found: Comparison) -> Comparison:
        """The comparison with this gate's verdict."""
        from spinal.policy.decide import judged

        return judged(found, self.policy, former=self.former)


def read_gate(policy: str | None, fail_on: str, former: Path | None) -> Gate:
    """Read what the command line names, before any work. Raises UsageError, or DocumentInvalid for a file."""
    from spinal.policy.judge import find_comparison, find_policy

    if fail_on not in ("fail", "warn"):
        raise UsageError(f"--fail-on {fail_on!r} is neither fail nor warn", hint="for example --fail-on warn")
    before = None if former is None else find_comparison(former)
    return Gate(find_policy(policy), cast(FailsOn, fail_on), before)


def exit_code(outcome: Outcome | None, fail_on: FailsOn) -> ExitCode:
    """0 pass or warn, 1 fail (and warn where it is to fail), 5 inconclusive; 0 where nothing was judged."""
    if outcome == "inconclusive":
        return ExitCode.INCONCLUSIVE
    if outcome == "fail" or (outcome == "warn" and fail_on == "warn"):
        return ExitCode.FAILED
    return ExitCode.PASS
