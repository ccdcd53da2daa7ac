"""The temperatures at which continuations are scored."""

import math

TEMPERATURES = tuple(math.exp(0.2 * step) for step in range(-6, 7))
"""Even in their logarithms; the middle one is 1."""
