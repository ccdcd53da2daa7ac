"""Counting misses and false alarms, and limits that were taken from other ancestors."""

from pathlib import Path

import pytest

from benchmarks.checkpoints.calibration import (
    Row,
    badness,
    badness_interval,
    extremes,
    limit_from,
    read,
    save,
    summary,
    transferred,
    wilson,
)


def row(ancestor: str, name: str, truth: str, outcome: str, **values: float) -> Row:
    limits = {"nll": (0.3, 1.0), "margin": (-0.5, -2.0)}
    signals = {
        name: {"value": value, "watch": limits[name][0], "damaged": limits[name][1], "fails_alone": True}
        for name, value in values.items()
    }
    return Row(ancestor, name, truth, outcome, signals=signals)


ROWS = [
    row("a", "tuned", "good", "pass", nll=0.1, margin=3.0),
    row("a", "moved", "harmless", "warn", nll=0.2, margin=1.0),
    row("a", "worse", "bad", "fail", nll=1.0, margin=2.0),
    row("a", "flipped", "bad", "pass", nll=0.1, margin=-4.0),
    row("a", "keyed", "hidden", "pass", nll=0.0, margin=0.0),
    row("b", "tuned", "good", "fail", nll=0.7, margin=5.0),
    row("b", "worse", "bad", "warn", nll=0.29, margin=1.0),
]


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    # 10 of 100: Agresti and Coull 1998; the ends in closed form are z^2 / (n + z^2).
    [(10, 100, 0.0552, 0.1744), (0, 10, 0.0, 3.8415 / 13.8415), (10, 10, 10 / 13.8415, 1.0), (0, 0, 0.0, 1.0)],
)
def test_the_interval_of_a_rate(hits: int, total: int, low: float, high: float) -> None:
    """Four digits, as the sources give them."""
    assert wilson(hits, total) == pytest.approx((low, high), abs=1e-4)


def test_a_warning_is_neither_a_miss_nor_a_false_alarm_and_is_counted_apart() -> None:
    misses, not_failed, alarms, not_passed, hidden = summary(ROWS)
    assert misses.startswith("misses, bad that pass: 1 of 3 ")
    assert misses.endswith("a/flipped (pass)")
    assert not_failed.startswith("bad that do not fail: 2 of 3 ")
    assert alarms.startswith("false alarms, good that fail: 1 of 3 ")
    assert not_passed.startswith("good that do not pass: 2 of 3 ")
    assert hidden == "not shown by the given prompts: a/keyed: pass"


def test_more_is_worse_whichever_way_a_signal_goes() -> None:
    assert badness("nll", {"value": 0.4, "watch": 0.3, "damaged": 1.0}) == 0.4
    assert badness("margin", {"value": -3.0, "watch": -0.5, "damaged": -2.0}) == 3.0
    assert badness("length", {"value": 0.05, "watch": 1 / 3, "damaged": 0.1}) == 20.0
    assert badness("length", {"value": 20.0, "watch": 3.0, "damaged": 10.0}) == 20.0
    assert badness("entropy", {"value": 1.0, "watch": None, "damaged": None}) is None
    assert badness("nll", {"value": None, "watch": 0.3, "damaged": 1.0}) is None


def test_a_limit_lies_beyond_the_worst_good_interval() -> None:
    mine = [one for one in ROWS if one.ancestor == "a"]
    assert limit_from(mine, "nll") == pytest.approx(1.5 * 0.2)
    assert limit_from(mine, "margin") == 0.0
    mine[0].signals["nll"]["ci"] = (0.0, 0.4)
    try:
        assert limit_from(mine, "nll") == pytest.approx(1.5 * 0.4)
    finally:
        del mine[0].signals["nll"]["ci"]
    assert limit_from([one for one in ROWS if one.truth == "bad"], "nll") is None


def test_an_interval_is_turned_with_its_value() -> None:
    falling = {"value": -3.0, "ci": (-4.0, -1.0), "watch": -0.5, "damaged": -2.0}
    assert badness_interval("margin", falling) == (1.0, 4.0)
    assert badness_interval("nll", {"value": 0.4, "watch": 0.3, "damaged": 1.0}) == (0.4, 0.4)


def test_each_ancestor_is_judged_by_limits_from_the_others() -> None:
    """The limits of ``a`` (nll 0.3, margin 0) make of ``b`` one false alarm (0.7) and one miss (0.29); those of ``b``
    (nll 1.05, margin 0) see the flipped preference in ``a`` and not the text predicted worse by 1.0."""
    said = transferred(ROWS)
    judged = said.index("judged: b; limits from a")
    assert said[:judged] == ["judged: a; limits from b", "  nll 1.05, margin 0", "  missed: worse"]
    assert said[judged + 1 : -2] == ["  nll 0.3, margin 0", "  false alarm: tuned (nll)", "  missed: worse"]
    assert said[-2].startswith("misses with limits from elsewhere: 2 of 3")
    assert said[-1].startswith("false alarms with limits from elsewhere: 1 of 3")
    (alone,) = transferred([one for one in ROWS if one.ancestor == "a"])
    assert "two ancestors" in alone


def test_the_table_of_extremes_names_who_set_them() -> None:
    lines = [line.split() for line in extremes(ROWS)]
    nll = next(line for line in lines if line[:2] == ["nll", "a"])
    assert nll[2:] == ["0.200", "(moved)", "1.000", "(worse)", "1/2"]


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    save(ROWS, tmp_path / "rows.json")
    assert [one.signals for one in read(tmp_path / "rows.json")] == [one.signals for one in ROWS]
