"""When a run broke: known from how it was trained, or told by held-out texts that no audit reads."""

import numpy as np

from benchmarks.trained_series.measured import Run

CLEARLY = 0.15
"""Nats a token: half of what the default policy watches."""
Z = 1.959964


def broke_after(run: Run) -> int | None:
    """Place (from 0) of the last checkpoint before the break; -1 where the first one is broken, None where none is.

    Of a run that wears out, the break is where held-out texts show it (:func:`worse_from`)."""
    if run.break_after is not None:
        return run.steps.index(run.break_after)
    found = worse_from(run)
    return None if found is None else found - 1


def worse_from(run: Run) -> int | None:
    """Place of the first checkpoint that is clearly worse on the held-out texts of a language: the lower end of the 95%
    interval of the mean difference to the best checkpoint before, paired over texts, lies above :data:`CLEARLY`."""
    first = [place for language in run.held_out[0] if (place := _worse_from(run, language)) is not None]
    return min(first, default=None)


def _worse_from(run: Run, language: str) -> int | None:
    values = np.array([each[language] for each in run.held_out])
    best = 0
    for place, now in enumerate(values):
        worse = now - values[best]
        if worse.mean() - Z * worse.std(ddof=1) / len(worse) ** 0.5 > CLEARLY:
            return place
        if now.mean() < values[best].mean():
            best = place
    return None
