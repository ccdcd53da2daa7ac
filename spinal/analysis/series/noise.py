"""How much the mean of one member moves by itself."""

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from spinal.analysis.series.pairing import ROUNDING, differences, present, squared_error

Array = npt.NDArray[np.float64]


def noise(values: Array, *, counted: bool = False) -> float:
    """sigma: sigma^2 is half the median squared standard error of paired differences of consecutive members of (n, P).

    A difference of two members holds the noise of both, hence the half; the median lets one break between two members
    count for nothing. Members without values are stepped over; never below ``ROUNDING``, NaN where no two members can
    be paired.
    """
    rows = present(values)
    if not counted and rows.size > 1 and np.isfinite(values[rows]).all():
        squared = np.diff(values[rows], axis=0).var(axis=1, ddof=1) / values.shape[1]
        return max(math.sqrt(float(np.median(squared)) / 2.0), ROUNDING)
    pairs = [differences(values[later], values[earlier]) for earlier, later in pairwise(rows)]
    errors = [squared_error(change, counted=counted) for change in pairs if change.size]
    return max(math.sqrt(float(np.median(errors)) / 2.0), ROUNDING) if errors else math.nan
