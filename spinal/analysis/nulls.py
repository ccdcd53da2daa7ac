"""What the observed numbers look like where nothing was done: controls (``docs/method.md`` section 7)."""

import numpy as np
import numpy.typing as npt

from spinal.analysis.localization import summary
from spinal.comparison import Null

Array = npt.NDArray[np.float64]


def percentile(values: Array, observed: float) -> float:
    """Share of null values below ``observed``, ties counted half."""
    return float(np.mean(values < observed) + 0.5 * np.mean(values == observed))


def depth_null(profile: Array, terminal: tuple[int, int]) -> Null | None:
    """Terminal share of every circular shift of a profile (D,): how often does its shape alone, placed anywhere,
    hold as much in T? None for a profile without change."""
    if not profile.sum() > 0.0:
        return None
    shifts = np.stack([np.roll(profile, shift) for shift in range(profile.size)])
    shares = summary(shifts, terminal)["terminal_share"]
    return Null(
        statistic="terminal share of block swap",
        values=tuple(float(share) for share in shares),
        observed=float(shares[0]),
        percentile=percentile(shares, float(shares[0])),
        note="circular shifts of the profile in depth, the observed one among them",
    )


def split_half_null(reference_steps: Array, observed: float) -> Null | None:
    """The floor: difference of the reference's own mean L over T between two halves of the prompts, (P,) values,
    over 200 random halvings. None for fewer than four prompts."""
    prompts = reference_steps.size
    if prompts < 4:
        return None
    rng = np.random.default_rng(0)
    values = []
    for _ in range(200):
        order = rng.permutation(prompts)
        half = prompts // 2
        values.append(abs(float(reference_steps[order[:half]].mean() - reference_steps[order[half:]].mean())))
    floor = np.array(values)
    return Null(
        statistic="|difference of mean transport over T|",
        values=(float(np.median(floor)), float(np.quantile(floor, 0.95))),
        observed=abs(observed),
        percentile=percentile(floor, abs(observed)),
        note=(
            "median and 95% point between random halves of the prompts on the reference alone; the audit itself uses "
            "the same prompts on both sides and is finer than this floor"
        ),
    )
