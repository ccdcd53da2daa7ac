"""From what detectors and limits found to alarms with sentences."""

from collections.abc import Iterator, Mapping, Sequence

from spinal.analysis.series.detectors import Found, Moving
from spinal.documents.series import SeriesAlarm
from spinal.policy.series.limits import AtStep, signal_of
from spinal.policy.series.sentences import fell, last_of, left_line, past_limit, shifted
from spinal.policy.series.signals import TRACKED


def damage_alarms(found: Found, limits: Sequence[AtStep], steps: Sequence[int]) -> tuple[SeriesAlarm, ...]:
    """Falls and limits, the first that was known first; ``limits`` and ``steps`` by measured member."""
    return _ordered((*_falls(found, steps), *_limits(limits, steps)))


def early_alarms(found: Found, moving: Mapping[str, Moving], steps: Sequence[int]) -> tuple[SeriesAlarm, ...]:
    """Change points and shifts that count, the first that was known first."""
    return _ordered((*_breaks(found, moving, steps), *_shifts(found, steps)))


def _ordered(alarms: Sequence[SeriesAlarm]) -> tuple[SeriesAlarm, ...]:
    return tuple(sorted(alarms, key=lambda alarm: (alarm.step, alarm.onset_step)))


def _falls(found: Found, steps: Sequence[int]) -> Iterator[SeriesAlarm]:
    for name, parts in found.drawdowns.items():
        falls = [(part, of, one) for part, of in parts.items() for one in of.falls]
        if len(parts) > 1 and falls:
            # Of categories the one that is known first to fall, and farthest: who reads needs one place to look at.
            falls = [min(falls, key=lambda each: (each[2].known, -each[1].distance[each[2].known]))]
        others = sum(bool(of.falls) for of in parts.values()) - 1 if len(parts) > 1 else 0
        for part, of, one in falls:
            onset, worse, known = (steps[place] for place in (one.onset, one.worse_from, one.known))
            last = of.last
            yield SeriesAlarm(
                kind="drawdown",
                signal=name,
                role="damage",
                step=known,
                onset_step=onset,
                worse_from_step=worse,
                of=part,
                text=fell(
                    TRACKED[name],
                    of=part,
                    steps=(onset, worse, known),
                    fall=float(of.fall[one.known]),
                    ends=(float(of.low[one.known]), float(of.high[one.known])),
                    least=float(of.least[one.known]),
                    noticed=steps[one.noticed] if one.noticed < one.worse_from else None,
                    recovered=None if of.beyond[last] else steps[last],
                    last=last_of(last, len(steps)),
                    others=others,
                ),
            )


def _limits(limits: Sequence[AtStep], steps: Sequence[int]) -> Iterator[SeriesAlarm]:
    """The first member beyond each limit; the ones after it say nothing new."""
    told: set[str] = set()
    for place, at in enumerate(limits):
        for rule in at.beyond:
            if rule.rule in told:
                continue
            told.add(rule.rule)
            # One that has no answer, or is beyond it and waived, is none at which all was well.
            well = [step for step, earlier in zip(steps, limits[:place], strict=False) if rule.rule in earlier.within]
            before = well[-1] if well else None
            yield SeriesAlarm(
                kind="limit",
                signal=signal_of(rule),
                role="damage",
                step=steps[place],
                onset_step=steps[place] if before is None else before,
                worse_from_step=steps[place],
                of=rule.of,
                text=past_limit(steps[place], before, place == 0, "; ".join(rule.reasons) or f"fails rule {rule.rule}"),
            )


def _breaks(found: Found, moving: Mapping[str, Moving], steps: Sequence[int]) -> Iterator[SeriesAlarm]:
    for name, breaks in found.counted_breaks.items():
        every = found.breaks[name]
        for one in breaks:
            following = [other.at for other in every if other.at > one.at]
            last = following[0] if following else moving[name].last
            yield SeriesAlarm(
                kind="change_point",
                signal=name,
                role="early_warning",
                step=steps[one.known],
                onset_step=steps[one.at],
                text=left_line(
                    TRACKED[name], steps[one.at], steps[last], one.change, one.low, steeper=one.after > one.before
                ),
            )


def _shifts(found: Found, steps: Sequence[int]) -> Iterator[SeriesAlarm]:
    for name, shifts in found.shifts.items():
        for one in shifts:
            yield SeriesAlarm(
                kind="cusum",
                signal=name,
                role="early_warning",
                step=steps[one.known],
                onset_step=steps[one.onset],
                text=shifted(TRACKED[name], steps[one.onset], steps[one.known], one.shift),
            )
