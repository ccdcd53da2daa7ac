"""Trained runs of known history, as ``benchmarks/series`` measured them, judged by the default policy.

``python -m benchmarks.series --keep FOLDER --seeds 0``, then ``python -m benchmarks.series --keep FOLDER --store
tests/science/series healthy-0 flipped-0 overoptimised-0`` makes the stored files again; ``docs/series_benchmark.md``
has what the others show.
"""

from functools import cache
from pathlib import Path

import pytest

from benchmarks.series.measured import Run
from benchmarks.series.stored import load
from benchmarks.series.truth import broke_after, worse_from
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


def test_flipped_labels_are_told_by_the_margin_and_not_by_text() -> None:
    judged = assess("start", stored("flipped-0").members)
    assert judged.alarmed[0] == "margin_change"
    assert worse_from(stored("flipped-0")) is None
