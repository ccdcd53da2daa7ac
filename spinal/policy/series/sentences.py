"""The findings of a series as sentences that are read once: which signal, between which steps, by how much."""

from collections.abc import Sequence

from spinal.analysis.human_terms import unit_in_words
from spinal.numbers import interval, number, signed
from spinal.policy.series.signals import Tracked

MOST_NAMED = 8
"""Steps that one sentence names."""


def fell(
    signal: Tracked,
    *,
    of: str | None,
    steps: tuple[int, int, int],
    fall: float,
    ends: tuple[float, float],
    least: float,
    noticed: int | None = None,
    recovered: int | None = None,
    last: str = "the last",
    others: int = 0,
) -> str:
    """A drawdown: ``steps`` are the last of the running best, the first that is worse by as much as counts and the one
    at which it is known. ``noticed`` is the first that is worse at all beyond noise, where that is an earlier one;
    ``recovered`` the last that has the signal, where it is no longer worse by as much. ``others`` counts the categories
    that fall beside the one that it is about."""
    onset, worse, known = steps
    early = "" if noticed is None else f"; beyond noise from step {noticed} on"
    better = "" if recovered is None else f"; at step {recovered}, {last}, no longer surely by as much as counts"
    where = f"by {number(fall)} {unit_in_words(signal.unit)} {interval(*ends)} at step {known}"
    began = f"{signal.worse.format(of=of)}, beginning between steps {onset} and {worse}"
    also = f"; {others} more categories fall, too" if others > 1 else "; 1 more category falls, too" if others else ""
    return f"{began}: {where}, compared with step {onset} (it counts from {number(least)}{early}){better}{also}"


def worse_alone(
    signal: Tracked, *, of: str | None, step: int, best: int, fall: float, ends: tuple[float, float], last: str | None
) -> str:
    """One checkpoint that is worse by as much as counts while its neighbours are not; ``last`` where none came after
    it."""
    how = f"by {number(fall)} {unit_in_words(signal.unit)} {interval(*ends)}, compared with step {best}"
    where = f"at step {step}, {last}" if last else f"at step {step} and not at the next"
    return f"{signal.worse.format(of=of)} {where}, {how}: a fall takes two consecutive checkpoints"


def past_limit(step: int, before: int | None, first: bool, reason: str) -> str:
    """A member beyond a damage limit; ``before`` is the last that was within it, ``first`` says that no member came
    before it at all."""
    since = (
        f"between steps {before} and {step}"
        if before is not None
        else f"at step {step}, the first that is measured"
        if first
        else f"at step {step} or before: no earlier one is known to be within it"
    )
    return f"beyond a damage limit {since}: the checkpoint at step {step} {reason}"


def left_line(signal: Tracked, step: int, last: int, change: float, low: float, *, steeper: bool) -> str:
    """A change point; ``last`` is the step at the end of the segment after, ``steeper`` whether the line after rises
    faster: it may have jumped as well."""
    what = "grows faster" if signal.places is None and change > 0.0 and steeper else "leaves its line"
    return (
        f"early warning: the {signal.label} {what} after step {step}: {signed(change)} {unit_in_words(signal.unit)} "
        f"at step {last} beyond the line before, surely {number(low)} or more"
    )


def shifted(signal: Tracked, step: int, known: int, shift: float) -> str:
    """A shift on the approved plateau."""
    return (
        f"early warning: on the approved plateau the {signal.label} shifts after step {step}: "
        f"{signed(shift)} {unit_in_words(signal.unit)} up to step {known}"
    )


def last_of(place: int, members: int) -> str:
    """What the last of ``members`` that has a signal is called, at that place."""
    return "the last" if place == members - 1 else "the last that has it"


def checkpoints(count: int) -> str:
    """``1 checkpoint``, ``7 checkpoints``."""
    return f"{count} checkpoint{'' if count == 1 else 's'}"


def at_steps(steps: Sequence[int]) -> str:
    """``step 3``, ``steps 3, 5 and 9 more``."""
    named = [str(step) for step in steps[:MOST_NAMED]]
    if len(steps) > MOST_NAMED:
        return f"steps {', '.join(named)} and {len(steps) - MOST_NAMED} more"
    if len(named) == 1:
        return f"step {named[0]}"
    return f"steps {', '.join(named[:-1])} and {named[-1]}"
