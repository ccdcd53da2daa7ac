"""What the candidate does with text: how well it predicts, whether it ends, how sure of itself it is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinal.analysis.damage.bounds import interval, share_interval, standard_error
from spinal.analysis.damage.limits import AT_ONCE, END_FLOOR, MIN_PROMPTS
from spinal.analysis.damage.signals import mean_signal, measured, normal_interval, not_asked, unmeasured
from spinal.analysis.layers import UNMEASURED
from spinal.analysis.uncertainty import FAMILY_ERROR, student_quantile
from spinal.documents.account import Account
from spinal.documents.capture import Capture
from spinal.documents.comparison import DamageSignal
from spinal.documents.temperatures import TEMPERATURES

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
NOT_IN_PROFILE = "not_in_this_profile"
NO_CATEGORIES = "no_categories"
FEW_PER_CATEGORY = "too_few_prompts_in_every_category"
NO_END_TOKEN = "no_end_token_or_no_whole_continuation"  # noqa: S105  a reason
NO_PAIRS = "no_pairs"
NONE_CONTINUED = "nothing_was_continued"
TOO_SHORT = "continuations_too_short"
TENTH = 0.1


@dataclass(frozen=True, eq=False)
class Scored:
    """Prompts scored on both sides, in the order of the set."""

    prompts: IntArray
    """(n,) which prompts."""
    reference: IntArray
    """(n,) their rows in the reference's capture."""
    candidate: IntArray
    change: Array
    """(n,) nats/token, candidate minus reference."""


def scored(reference: Capture, candidate: Capture) -> Scored:
    """The prompts whose NLL is finite on both sides."""
    mine = {int(prompt): row for row, prompt in enumerate(reference.nll_prompts)}
    theirs = {int(prompt): row for row, prompt in enumerate(candidate.nll_prompts)}
    prompts = np.array(sorted(mine.keys() & theirs.keys()), dtype=np.int64)
    rows = [np.array([side[int(prompt)] for prompt in prompts], dtype=np.int64) for side in (mine, theirs)]
    change = candidate.nll[rows[1]] - reference.nll[rows[0]]
    known = np.isfinite(change)
    return Scored(prompts[known], rows[0][known], rows[1][known], change[known])


def behaviour_signals(
    reference: Capture, candidate: Capture, non_finite: int, margin: Account | None
) -> dict[str, DamageSignal]:
    """Every signal of behaviour. ``non_finite`` counts activations of the candidate that are not finite; ``margin`` is
    the account of the preference margin, where pairs were given."""
    both = scored(reference, candidate)
    return {
        "nll_change": mean_signal("nll_change", both.change)
        if both.change.size
        else unmeasured("nll_change", UNMEASURED),
        "nll_change_worst_category": worst_category(both, candidate.categories),
        "nll_change_worst_tenth": worst_tenth(both.change),
        **dict(_endings(reference, candidate)),
        "end_log_p_change": _end_log_p(both, reference, candidate),
        "log_temperature": temperature_change(both, reference, candidate),
        "non_finite": _non_finite(non_finite, reference, candidate),
        "margin_change": _margin(margin),
    }


def worst_category(both: Scored, categories: tuple[str | None, ...]) -> DamageSignal:
    """The category whose prompts got worse most, with an interval that is corrected for looking at all of them.

    Holm's first step: of k categories the most certain one is tested at the k-th part of the error, so that none of k
    that lie at the limit is called damaged by more than one audit in 40. The category whose bound lies highest is
    named where that is beyond the limit, else the one of the largest mean.
    """
    name = "nll_change_worst_category"
    given = {of for of in categories if of is not None}
    if not given:
        return not_asked(name, NO_CATEGORIES)
    changes = {of: both.change[[categories[prompt] == of for prompt in both.prompts]] for of in sorted(given)}
    judged = {of: values for of, values in changes.items() if values.size >= MIN_PROMPTS}
    if not judged:
        return not_asked(name, FEW_PER_CATEGORY)
    level = 1.0 - FAMILY_ERROR / len(judged)
    found = [
        measured(
            name,
            float(values.mean()),
            interval(values, level=level),
            n=values.size,
            se=standard_error(values),
            of=of,
        )
        for of, values in judged.items()
    ]
    certain = max(found, key=lambda signal: signal.ci[0] if signal.ci else -math.inf)
    return certain if certain.level == "damaged" else max(found, key=lambda signal: signal.value or 0.0)


def worst_tenth(change: Array) -> DamageSignal:
    """Mean over the tenth of the prompts that got worse most, with the standard error of an expected shortfall (its
    influence function is the excess over the quantile, by the share of the tail)."""
    name = "nll_change_worst_tenth"
    if change.size < 2 * MIN_PROMPTS:
        return not_asked(name, "too_few_prompts")
    tail = math.ceil(TENTH * change.size)
    excess = np.maximum(change - np.sort(change)[-tail], 0.0) * change.size / tail
    value = float(np.sort(change)[-tail:].mean())
    se = standard_error(excess) or 0.0
    return measured(name, value, normal_interval(value, se, student_quantile(change.size - 1)), n=change.size, se=se)


def _endings(reference: Capture, candidate: Capture) -> Iterator[tuple[str, DamageSignal]]:
    """Whether and when greedy continuations end, and how they repeat themselves."""
    names = ("end_share_change", "end_at_once_change", "repetition_change", "length_ratio")
    rows = _continued(reference, candidate)
    if rows is None:
        yield from ((name, not_asked(name, NOT_IN_PROFILE)) for name in names)
        return
    mine, theirs = rows
    if not mine.size:
        yield from ((name, not_asked(name, NONE_CONTINUED)) for name in names)
        return
    length = _of(reference.greedy_length, mine), _of(candidate.greedy_length, theirs)
    if reference.end_ids is not None and not reference.end_ids.size:
        yield from ((name, not_asked(name, NO_END_TOKEN)) for name in names[:2])
    else:
        yield from _ends(reference, candidate, mine, theirs, length)
    repeated = _of(candidate.greedy_repetition, theirs) - _of(reference.greedy_repetition, mine)
    repeated = repeated[np.isfinite(repeated)]
    yield (
        "repetition_change",
        mean_signal("repetition_change", repeated) if repeated.size else not_asked("repetition_change", TOO_SHORT),
    )
    yield "length_ratio", _length_ratio(*length)


def _ends(
    reference: Capture, candidate: Capture, mine: IntArray, theirs: IntArray, length: tuple[Array, Array]
) -> Iterator[tuple[str, DamageSignal]]:
    """Whether continuations end, and at once. A candidate that names no end token never ends."""
    ended = _of(reference.greedy_ended, mine).astype(bool), _of(candidate.greedy_ended, theirs).astype(bool)
    at_once = tuple(side & (tokens <= AT_ONCE) for side, tokens in zip(ended, length, strict=True))
    for name, (before, after) in (("end_share_change", ended), ("end_at_once_change", at_once)):
        change = after.astype(float) - before
        yield (
            name,
            measured(
                name, float(change.mean()), share_interval(before, after), n=change.size, se=standard_error(change)
            ),
        )


def _length_ratio(before: Array, after: Array) -> DamageSignal:
    """Ratio of mean lengths, its interval that of a ratio's logarithm (delta method, paired). An empty continuation
    counts as one token, so that the ratio of two sides that say nothing is 1."""
    before, after = np.maximum(before, 1.0), np.maximum(after, 1.0)
    value = float(after.mean() / before.mean())
    spread = after / after.mean() - before / before.mean()
    se = standard_error(spread)
    ci = None
    if se is not None and before.size >= MIN_PROMPTS:
        reach = math.exp(student_quantile(before.size - 1) * se)
        ci = value / reach, value * reach
    return measured("length_ratio", value, ci, n=before.size, se=None if se is None else value * se)


def _end_log_p(both: Scored, reference: Capture, candidate: Capture) -> DamageSignal:
    name = "end_log_p_change"
    if reference.end_log_p is None or candidate.end_log_p is None:
        return not_asked(name, NOT_IN_PROFILE)
    _, change = end_log_p_changes(both, reference, candidate)
    return mean_signal(name, change) if change.size else not_asked(name, NO_END_TOKEN)


def end_log_p_changes(both: Scored, reference: Capture, candidate: Capture) -> tuple[IntArray, Array]:
    """Prompts (n,) and the change (n,) of the log probability of an end after each, floored at -``END_FLOOR`` on both
    sides; empty where a capture has none."""
    if reference.end_log_p is None or candidate.end_log_p is None:
        return both.prompts[:0], both.change[:0]
    sides = reference.end_log_p[both.reference], candidate.end_log_p[both.candidate]
    known = ~np.isnan(sides[0]) & ~np.isnan(sides[1])
    mine, theirs = (np.maximum(side[known], -END_FLOOR) for side in sides)
    return both.prompts[known], theirs - mine


def ending_changes(reference: Capture, candidate: Capture) -> tuple[IntArray, Array]:
    """Prompts (n,) that both sides continued, ascending, and whether an end came (n,): 1 where only the candidate's
    answer ends, -1 where only the reference's does. Empty where a capture has no continuations or no token ends one."""
    rows = _continued(reference, candidate)
    if rows is None or (reference.end_ids is not None and not reference.end_ids.size):
        return np.empty(0, dtype=np.int64), np.empty(0)
    mine, theirs = rows
    assert reference.greedy_prompts is not None, "it was continued"
    change = _of(candidate.greedy_ended, theirs) - _of(reference.greedy_ended, mine)
    return reference.greedy_prompts[mine], change


def temperature_change(both: Scored, reference: Capture, candidate: Capture) -> DamageSignal:
    """|log tau_a - log tau_b| of the temperatures that fit the scored text best, with its jackknife over prompts."""
    name = "log_temperature"
    if reference.nll_tempered is None or candidate.nll_tempered is None:
        return not_asked(name, NOT_IN_PROFILE)
    tempered = reference.nll_tempered[both.reference], candidate.nll_tempered[both.candidate]
    known = np.isfinite(tempered[0]).all(axis=1) & np.isfinite(tempered[1]).all(axis=1)
    n = int(known.sum())
    if not n:
        return unmeasured(name, UNMEASURED)
    before, after = (side[known] for side in tempered)
    change = float(_fitted_change(before.sum(axis=0)[None], after.sum(axis=0)[None])[0])
    if n < MIN_PROMPTS:
        return measured(name, abs(change), None, n=n)
    left_out = _fitted_change(before.sum(axis=0) - before, after.sum(axis=0) - after)
    se = math.sqrt((n - 1) * float(np.mean((left_out - left_out.mean()) ** 2)))
    low, high = normal_interval(change, se, student_quantile(n - 1))
    folded = (0.0 if low <= 0.0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high)))
    return measured(name, abs(change), folded, n=n, se=se)


def _fitted_change(before: Array, after: Array) -> Array:
    return _within_grid(after) - _within_grid(before)


def _within_grid(curves: Array) -> Array:
    """(m,) log of the fitted temperature of each of (m, T) curves. One that lies beyond the grid is taken at its end: a
    model that is that far off must not count as unmeasured."""
    # Its splines take long to import, and only comparisons of captures need them.
    from spinal.analysis.temperature import fitted_log_temperature

    found = fitted_log_temperature(curves)
    ends = np.log(TEMPERATURES)[curves.argmin(axis=1)]
    return np.where(np.isfinite(found), found, ends)


def _non_finite(count: int, reference: Capture, candidate: Capture) -> DamageSignal:
    """Activations that are not finite, and continuations to which the candidate alone gives no probability at all."""
    lost = set(candidate.nll_prompts[np.isposinf(candidate.nll)].tolist())
    lost -= set(reference.nll_prompts[np.isposinf(reference.nll)].tolist())
    total = float(count + len(lost))
    return measured("non_finite", total, (total, total))


def _margin(margin: Account | None) -> DamageSignal:
    if margin is None:
        return not_asked("margin_change", NO_PAIRS)
    total = margin.total
    if total.value is None:
        return not_asked("margin_change", total.reason or UNMEASURED)
    ci = total.ci if margin.prompts >= MIN_PROMPTS else None
    return measured("margin_change", total.value, ci, n=margin.prompts, se=total.se)


def _continued(reference: Capture, candidate: Capture) -> tuple[IntArray, IntArray] | None:
    """Rows, on both sides, of the prompts that both continued; None where a side continued none."""
    if reference.greedy_prompts is None or candidate.greedy_prompts is None:
        return None
    _, mine, theirs = np.intersect1d(reference.greedy_prompts, candidate.greedy_prompts, return_indices=True)
    return mine.astype(np.int64), theirs.astype(np.int64)


def _of(values: npt.NDArray[np.generic] | None, rows: IntArray) -> Array:
    assert values is not None, "a capture with continued prompts has all that is told of them"
    return np.asarray(values[rows], dtype=np.float64)
