"""The smallest changes that count: paired standard errors are tiny, and every healthy run moves."""

FALL = 1 / 3
"""Of a watch limit, that a fall has to exceed surely. A quarter is less than the 0.08 nats by which NLL rises in a
healthy run, and alarms on too many of those (``python -m benchmarks.flat_series``)."""
EARLY = 0.25
"""Of a watch limit, for early warning."""
OF_BEST = 0.1
"""Of the running best, that the preference margin has to lose: it grows all through a healthy run."""
OF_BEST_FLOOR = 0.1
"""Of the watch limit, that the preference margin has to lose at least, so that a run that has not begun to prefer
anything does not alarm at nothing."""
SHARE = 0.4
"""Of the account, that a group of places has to gain or lose: more than any of 20 healthy trained runs surely did."""


def fall_effect(watch: float) -> float:
    """Least effect of a fall of a signal with that watch limit, in its unit.

    >>> round(fall_effect(-0.5), 4)
    0.1667
    """
    return FALL * abs(watch)


def early_effect(watch: float) -> float:
    """Least effect of a change point, or a shift on a plateau, of a signal with that watch limit."""
    return EARLY * abs(watch)


def margin_effect(watch: float) -> float:
    """What a fall of the preference margin has to exceed besides a tenth of its running best."""
    return OF_BEST_FLOOR * abs(watch)
