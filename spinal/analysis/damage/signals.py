"""From values over prompts to one signal of the panel, with its limits and its level."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from spinal.analysis.damage.bounds import interval, standard_error
from spinal.analysis.damage.limits import LIMITS, beyond
from spinal.documents.comparison import DamageSignal

Array = npt.NDArray[np.float64]
Level = Literal["none", "watch", "damaged"]
Interval = tuple[float, float] | None


def measured(
    name: str,
    value: float,
    ci: Interval,
    *,
    n: int | None = None,
    se: float | None = None,
    of: str | None = None,
) -> DamageSignal:
    """A signal that votes: ``value`` under the limits of ``name``, on the side on which it lies."""
    limit = LIMITS[name]
    watch, damaged = limit.on_the_side_of(value)
    if ci is not None:
        # Means over blocks and prompts that lack some values may lie beside those of the prompts alone.
        ci = min(ci[0], value), max(ci[1], value)
    return DamageSignal(
        value=value,
        watch=watch,
        damaged=damaged,
        level=level_of(value, ci, watch, damaged, surely_beyond=limit.neutral if limit.watch_if_sure else None),
        unit=limit.unit,
        n=n,
        se=se,
        ci=ci,
        of=of,
        fails_alone=limit.fails_alone,
    )


def mean_signal(name: str, values: Array, *, value: float | None = None) -> DamageSignal:
    """The mean of (n,) values by prompt, all of them finite and at least one; ``value`` where it is known more closely
    than as their mean."""
    return measured(
        name,
        float(values.mean()) if value is None else value,
        interval(values, down=LIMITS[name].damaged < LIMITS[name].neutral),
        n=values.size,
        se=standard_error(values),
    )


def normal_interval(value: float, se: float, reach: float) -> tuple[float, float]:
    """value +- reach standard errors."""
    return value - reach * se, value + reach * se


def level_of(value: float, ci: Interval, watch: float, damaged: float, *, surely_beyond: float | None = None) -> Level:
    """``damaged`` where the near end of the interval is beyond that limit, ``watch`` where the value is beyond the
    other, and the near end beyond ``surely_beyond``, where that is given. Bad is down where ``damaged`` lies below
    ``watch``."""
    down = damaged < watch
    near = None if ci is None else ci[1] if down else ci[0]
    if near is not None and beyond(near, damaged, down=down):
        return "damaged"
    if near is not None and surely_beyond is not None and not beyond(near, surely_beyond, down=down):
        return "none"
    return "watch" if beyond(value, watch, down=down) else "none"


def unmeasured(name: str, reason: str) -> DamageSignal:
    """A signal that should have been measured: without it damage is not ruled out."""
    limit = LIMITS[name]
    return DamageSignal(
        value=None,
        watch=limit.watch,
        damaged=limit.damaged,
        level=None,
        unit=limit.unit,
        reason=reason,
        fails_alone=limit.fails_alone,
    )


def not_asked(name: str, reason: str) -> DamageSignal:
    """A signal that the profile, the prompts or the model give no value for: it has no vote, and the verdict says that
    it was not looked at."""
    limit = LIMITS[name]
    return DamageSignal(
        value=None,
        watch=None,
        damaged=None,
        level=None,
        unit=limit.unit,
        reason=reason,
        fails_alone=limit.fails_alone,
    )


def without_vote(signal: DamageSignal, reason: str) -> DamageSignal:
    """The signal as it was measured, shown and not judged."""
    return signal.model_copy(update={"watch": None, "damaged": None, "level": None, "reason": reason})


def shown(value: float, unit: str, reason: str, over: Array | None = None) -> DamageSignal:
    """A number without a vote; ``reason`` is why it is absent where it is not finite. ``over`` are its values by
    prompt, where it is a mean of some."""
    known = bool(np.isfinite(value))
    values = np.empty(0) if over is None or not known else over[np.isfinite(over)]
    ci = interval(values)
    return DamageSignal(
        value=value if known else None,
        watch=None,
        damaged=None,
        level=None,
        unit=unit,
        reason=None if known else reason,
        n=values.size or None,
        se=standard_error(values),
        ci=None if ci is None else (min(ci[0], value), max(ci[1], value)),
    )


def mean_or_nan(values: Array) -> float:
    """Mean of the finite values, NaN without any."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
