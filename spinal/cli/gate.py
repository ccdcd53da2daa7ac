"""The policy that a command judges by, and the exit code that follows from its verdict."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from spinal.documents.comparison import Comparison, Outcome
from spinal.documents.policy import NAME, Policy
from spinal.errors import ExitCode, UsageError

FailsOn = Literal["fail", "warn"]


@dataclass(frozen=True)
class Gate:
    """What a verdict is made by, and what of it fails a pipeline."""

    policy: Policy | None
    """None for the default policy."""
    fail_on: FailsOn
    former: Comparison | None
    """What rules on ``former.`` values are read against."""

    def judge(self, found: Comparison) -> Comparison:
        """The comparison with this gate's verdict."""
        from spinal.policy.decide import judged

        return judged(found, self.policy, former=self.former)


def fails_on(text: str) -> FailsOn:
    """The mildest outcome that fails a pipeline; raises UsageError."""
    if text not in ("fail", "warn"):
        raise UsageError(f"--fail-on {text!r} is neither fail nor warn", hint="for example --fail-on warn")
    return cast(FailsOn, text)


def policy_for_server(named: str | None) -> Policy | str | None:
    """What ``--policy`` means to a server: the policy in a file, which is to be stored there first, or what the server
    knows by name and version or digest. Read before any request; raises UsageError, or DocumentInvalid for a file."""
    if named is None:
        return None
    if Path(named).is_file():
        from spinal.policy.shipped import read_policy

        return read_policy(named)
    if re.match(NAME, named) or re.match(r"^[0-9a-f]{64}$", named):
        return named
    raise UsageError(
        f"--policy {named}: neither a file, nor name and version of a policy",
        hint="for example --policy release.yaml, or --policy acme-release/1 for one that the server has",
    )


def read_gate(policy: str | None, fail_on: str, former: Path | None) -> Gate:
    """Read what the command line names, before any work. Raises UsageError, or DocumentInvalid for a file."""
    from spinal.policy.judge import find_comparison, find_policy

    chosen = fails_on(fail_on)
    before = None if former is None else find_comparison(former)
    return Gate(find_policy(policy), chosen, before)


def exit_code(outcome: Outcome | None, fail_on: FailsOn) -> ExitCode:
    """0 pass or warn, 1 fail (and warn where it is to fail), 5 inconclusive; 0 where nothing was judged."""
    if outcome == "inconclusive":
        return ExitCode.INCONCLUSIVE
    if outcome == "fail" or (outcome == "warn" and fail_on == "warn"):
        return ExitCode.FAILED
    return ExitCode.PASS
