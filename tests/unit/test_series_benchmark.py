"""How the benchmark of series counts: breaks, delays, false alarms and thresholds."""

import numpy as np
import pytest

from benchmarks.trained_series.alarms import Curve, change, fall, level, threshold
from benchmarks.trained_series.measured import Run
from benchmarks.trained_series.table import Judged
from benchmarks.trained_series.truth import broke_after, worse_from

STEPS = (4, 8, 12, 16, 20)


def run_with(means: list[float], *, kind: str = "overoptimised", break_after: int | None = None) -> Run:
    """A run whose held-out texts have those means, each text with an offset of its own."""
    offsets = np.linspace(-1.0, 1.0, 16)
    held_out = tuple({"english": (mean + offsets).tolist(), "german": [1.0] * 16} for mean in means)
    return Run(kind, 0, break_after, STEPS[: len(means)], held_out, ())


def test_a_break_is_the_first_checkpoint_clearly_worse_than_the_best_before() -> None:
    # 0.1 above the best is not clear, 0.3 is; the best is the second checkpoint and not the first.
    run = run_with([3.0, 2.9, 3.0, 3.2, 4.0])
    assert worse_from(run) == 3
    assert broke_after(run) == 2


def test_texts_that_scatter_leave_a_break_unclear() -> None:
    run = run_with([3.0, 3.0])
    noisy = {
        "english": [value + (3.0 if place == 0 else 0.0) for place, value in enumerate(run.held_out[1]["english"])]
    }
    held_out = (run.held_out[0], noisy | {"german": [1.0] * 16})
    assert worse_from(Run("overoptimised", 0, None, run.steps, held_out, ())) is None


def test_a_known_break_needs_no_held_out_text() -> None:
    assert broke_after(run_with([3.0] * 5, kind="flipped", break_after=12)) == 2


@pytest.mark.parametrize(
    ("kind", "break_after", "alarm", "delay", "false"),
    [
        ("flipped", 12, 3, 1, False),
        ("flipped", 12, 2, None, True),
        ("flipped", 12, None, None, False),
        ("healthy", None, 4, None, True),
        ("healthy", None, None, None, False),
        ("overoptimised", None, 1, -1, False),
    ],
)
def test_an_alarm_before_a_known_break_is_false_and_finds_nothing(
    kind: str, break_after: int | None, alarm: int | None, delay: int | None, false: bool
) -> None:
    means = [3.0] * 5 if kind != "overoptimised" else [3.0, 3.0, 3.0, 4.0, 5.0]
    run = run_with(means, kind=kind, break_after=break_after)
    judged = Judged(run, broke_after(run), alarm)
    assert (judged.delay, judged.false) == (delay, false)


def test_a_threshold_lets_as_many_healthy_runs_alarm_as_asked() -> None:
    runs = [run_with([3.0] * 3, kind="healthy") for _ in range(4)]
    highest = dict(zip(map(id, runs), (0.1, 0.4, 0.2, 0.3), strict=True))

    class Fixed(Curve):
        def over(self, run: Run) -> np.ndarray:
            return np.array([0.0, highest[id(run)]])

    curve = Fixed("fixed", lambda content: 0.0, level)
    for alarms in (0, 1, 2):
        limit = threshold(curve, runs, alarms)
        assert sum(value > limit for value in highest.values()) == alarms


def test_readings_of_a_curve() -> None:
    values = np.array([1.0, 0.5, 2.0, 1.5])
    assert level(values).tolist() == [1.0, 0.5, 2.0, 1.5]
    assert fall(values).tolist() == [0.0, 0.0, 1.5, 1.0]
    assert change(values).tolist() == [0.0, -0.5, 1.5, -0.5]
