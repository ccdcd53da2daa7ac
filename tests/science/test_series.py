"""Trained runs of known history, as ``benchmarks/series.py`` measured them, judged by the default policy.

``python -m benchmarks.series --keep FOLDER --seeds 0``, then ``python -m benchmarks.series --keep FOLDER --store
tests/science/series healthy-0 flipped-0 overoptimised-0`` makes the stored files again; ``docs/series_benchmark.md``
has what the others show.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from benchmarks.trained_series.measured import Run
from benchmarks.trained_series.stored import load
from benchmarks.trained_series.table import RULE, lines
from benchmarks.trained_series.truth import broke_after, worse_from
from spinal.policy.series import assess

STORED = Path(__file__).parent / "series"
BROKEN = ("flipped-0", "overoptimised-0")


@cache
def stored(name: str) -> Run:
    return load(STORED / f"{name}.json.gz")


def test_a_healthy_run_raises_no_alarm() -> None:
    run = stored("healthy-0")
    assert worse_from(run) is None
    judged = assess("start", run.members)
    assert judged.status in ("healthy", "watch")
    assert judged.alarmed == ()
    assert judged.onset_step is None


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_destabilised_and_began_no_later_than_it_broke(name: str) -> None:
    run = stored(name)
    broke = broke_after(run)
    assert broke is not None
    judged = assess("start", run.members)
    assert judged.status == "destabilised"
    assert judged.onset_step is not None
    assert judged.first_alarm_step is not None
    assert judged.onset_step <= run.steps[broke]
    # Two consecutive members have to be worse: no alarm comes before the second one after the break.
    assert judged.onset_step < judged.first_alarm_step


@pytest.mark.parametrize("name", BROKEN)
def test_a_run_raises_no_alarm_before_it_broke(name: str) -> None:
    run = stored(name)
    broke = broke_after(run)
    assert broke is not None
    before = assess("start", run.members[: broke + 1])
    assert before.alarmed == ()


def test_flipped_labels_are_told_by_what_was_trained_and_not_by_text() -> None:
    """Text is predicted as well as before: what watches held-out NLL alone sees nothing."""
    run = stored("flipped-0")
    judged = assess("start", run.members)
    assert set(judged.alarmed) <= {"margin_change", "end_log_p_change"}
    assert worse_from(run) is None


def test_the_benchmark_counts_what_the_rule_says() -> None:
    healthy = stored("healthy-0")
    told = lines([healthy, replace(healthy, seed=1), *map(stored, BROKEN)])
    row = next(line for line in told if line.startswith(f"| {RULE} "))
    assert row.split(" | ")[1:3] == ["0 of 2", "0 of 1"]
    assert row.split(" | ")[3].startswith("2 of 2")
