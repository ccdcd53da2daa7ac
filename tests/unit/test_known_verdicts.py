"""Counting misses and false alarms, and limits that were taken from other ancestors."""

from pathlib import Path

import pytest

from benchmarks.checkpoints.calibration import (
    Row,
    badness,
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
    row("b", "worse", "bad", "warn", nll=0.3, margin=1.0),
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


def test_a_limit_lies_between_the_worst_good_and_the_mildest_bad_beyond_it() -> None:
    mine = [one for one in ROWS if one.ancestor == "a"]
    assert limit_from(mine, "nll") == pytest.approx((0.2 + 1.0) / 2)
    assert limit_from(mine, "margin") == pytest.approx((0.0 + 4.0) / 2)
    assert limit_from([one for one in ROWS if one.ancestor == "b"], "nll") is None


def test_each_ancestor_is_judged_by_limits_from_the_others() -> None:
    """With the limits of ``a`` (nll 0.6, margin 2) ``b`` has one false alarm and one miss; ``b`` gives no limit at all
    (its good one is worse than its bad one, and no margin fell), so that both bad ones of ``a`` are missed."""
    said = transferred(ROWS)
    judged = said.index("judged: b; limits from a")
    assert said[:judged] == ["judged: a; limits from b", "  ", "  missed: worse", "  missed: flipped"]
    assert said[judged + 1 : -2] == ["  nll 0.6, margin 2", "  false alarm: tuned (nll)", "  missed: worse"]
    assert said[-2].startswith("misses with limits from elsewhere: 3 of 3")
    assert said[-1].startswith("false alarms with limits from elsewhere: 1 of 3")


def test_the_table_of_extremes_names_who_set_them() -> None:
    lines = [line.split() for line in extremes(ROWS)]
    nll = next(line for line in lines if line[:2] == ["nll", "a"])
    assert nll[2:] == ["0.200", "(moved)", "1.000", "(worse)", "1/2"]


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    save(ROWS, tmp_path / "rows.json")
    assert [one.signals for one in read(tmp_path / "rows.json")] == [one.signals for one in ROWS]
