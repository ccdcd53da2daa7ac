"""The fitted temperature: by how much a model's logits would have to be divided to predict text best.

Captures hold the NLL of every scored continuation at the temperatures of ``TEMPERATURES``, evenly spaced in log tau. A
cubic spline through the mean curve gives its minimum between them (within .001 in log tau of that of the
exact curve). A minimum at the end of the grid is not determined: the curve still falls there.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from spinal.documents.temperatures import TEMPERATURES

Array = npt.NDArray[np.float64]
LOG_TAU = np.log(np.array(TEMPERATURES))
STEPS = 40
"""Points between two temperatures at which the spline is looked at, before a parabola through the lowest three."""
FINE = np.linspace(LOG_TAU[0], LOG_TAU[-1], STEPS * (len(LOG_TAU) - 1) + 1)


@cache
def _spline() -> Array:
    """(F, T) the spline as a linear map of the values at the grid."""
    # Here: it takes a second to import, and most of what imports this fits no temperature.
    from scipy.interpolate import CubicSpline

    return np.asarray(CubicSpline(LOG_TAU, np.eye(len(LOG_TAU)))(FINE))


def fitted_log_temperature(curves: Array) -> Array:
    """log of the temperature at which each of ``curves`` (..., T) of the mean NLL (nats per token at ``TEMPERATURES``)
    is lowest: 0 for a model that is as sure as it should be, below for one that is not sure enough, above for one that
    is too sure. NaN where the curve is lowest at an end of the grid, or holds what is not a number.

    Examples
    --------
    >>> round(float(fitted_log_temperature((LOG_TAU - 0.3) ** 2)), 6)
    0.3
    >>> float(fitted_log_temperature(-LOG_TAU))
    nan
    """
    values = np.asarray(curves, dtype=np.float64) @ _spline().T
    lowest = np.where(np.isfinite(values).all(axis=-1), np.nan_to_num(values).argmin(axis=-1), 0)
    inside = (lowest > 0) & (lowest < len(FINE) - 1)
    at = np.clip(lowest, 1, len(FINE) - 2)
    before, here, after = (np.take_along_axis(values, (at + by)[..., None], -1)[..., 0] for by in (-1, 0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = 0.5 * (before - after) / (before - 2.0 * here + after)
    exact = FINE[at] + np.where(np.isfinite(shift), np.clip(shift, -1.0, 1.0), 0.0) * (FINE[1] - FINE[0])
    return np.asarray(np.where(inside, exact, np.nan))
