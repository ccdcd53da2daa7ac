"""False alarms count per series, all detectors together: a small edition of ``python -m benchmarks.flat_series``."""

import numpy as np
import pytest

from benchmarks.flat_series import FEWEST_FLIPPED, Rows, alarms

SERIES = 200


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Prompts whose changes have heavy tails (Student, 4 degrees of freedom) and hang together, as those of real pairs
    do; a third of their answers is cut."""
    generator = np.random.default_rng(0)
    prompts, places = 60, 26
    common = generator.standard_t(4, (prompts, 1))
    change = 0.7 * common + generator.standard_t(4, (prompts, 4))
    change = change * [0.15, 0.3, 1.0, 0.05] + [0.01, 0.1, 0.4, 0.25]
    change[::3, 1] = np.nan
    phi = np.abs(0.7 * common + generator.standard_t(4, (prompts, places))) * np.linspace(0.5, 1.5, places)
    return Rows(change, phi, FEWEST_FLIPPED, prompts)


@pytest.mark.parametrize("n", [5, 20])
def test_flat_series_alarm_rarely_though_every_effect_counts(rows: Rows, n: int) -> None:
    """A rate of 1% stays within 6 of 200 in 99 of 100 counts; these are drawn from a fixed seed. Least effects only
    take alarms away."""
    assert alarms(rows, n, SERIES, effects=False)[2] <= 6


def test_healthy_ramps_do_not_alarm(rows: Rows) -> None:
    damage, _, either = alarms(rows, 20, SERIES // 2, ramp=0.08)
    assert damage == 0
    assert either <= 4


def test_without_a_threshold_flat_series_would_alarm_often(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above measure can fail: series are noisy enough."""
    monkeypatch.setattr("spinal.analysis.series.detectors.threshold", lambda _members, _tests: 0.5)
    assert alarms(rows, 20, 50, effects=False)[0] > 10
