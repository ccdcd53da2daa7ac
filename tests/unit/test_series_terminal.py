"""A training run on a terminal: the answer first, lines that fit, signals over the steps, nothing that it obeys."""

import io
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from spinal.documents.series import Series, SeriesAlarm, SeriesMember, SeriesPoint, SeriesSignal, Status
from spinal.report.formats.series_terminal import heading, print_series, series_in_a_few_lines

HOSTILE = "\x1b[2Jcleared\u202e"
SHA = "ab" * 32


def signal(label: str, values: list[float | None], **changes: Any) -> SeriesSignal:
    points = tuple(
        SeriesPoint(
            step=100 * (at + 1),
            value=value,
            ci=None if value is None else (value - 0.01, value + 0.01),
            reason="not_measured" if value is None else None,
        )
        for at, value in enumerate(values)
    )
    return SeriesSignal(
        **({"label": label, "unit": "nats", "better": "lower", "role": "damage", "points": points} | changes)
    )


def made(values: list[float | None], status: Status = "destabilised", **changes: Any) -> Series:
    steps = [100 * (at + 1) for at in range(len(values))]
    last = steps[-1]
    alarm = SeriesAlarm(
        kind="drawdown", signal="nll_change", role="damage", step=last, onset_step=steps[0],
        text="predicts text worse from step 100 on",
    )  # fmt: skip
    document = {
        "digest": SHA,
        "status": status,
        "onset_step": steps[0],
        "first_alarm_step": last,
        "alarmed": ("nll_change",),
        "reasons": ("It begins between steps 100 and 200.", "Known at the last step.", "Third.", "Fourth."),
        "alarms": (alarm,),
        "reference": "local:sft",
        "policy": "spinal-default/2",
        "policy_digest": SHA,
        "members": tuple(
            SeriesMember(step=step, model=f"local:checkpoint-{step}", state="measured", verdict="pass")
            for step in steps
        ),
        "signals": {
            "nll_change": signal("predicts text worse", values),
            "gap": signal("output moved", [None if one is None else one / 2 for one in values], role="early_warning"),
        },
    }
    return Series.model_validate(document | changes)


def shown(document: Series, width: int = 100, *, brief: bool = False, encoding: str = "utf-8") -> str:
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    print_series(document, Console(file=written, width=width, force_terminal=False), brief=brief)
    written.flush()
    return written.buffer.getvalue().decode(encoding)


def test_the_status_and_its_sentences_come_before_plot_and_table() -> None:
    lines = shown(made([0.0, 0.1, 0.2, 0.9])).splitlines()
    assert lines[0] == "4 checkpoints, steps 100 to 400, compared with local:sft"
    assert lines[1] == "DESTABILISED: It begins between steps 100 and 200."
    assert lines[2] == "Known at the last step."
    assert lines[-1] == lines[1], "and the status is the last thing, too, where a long report has scrolled"


def test_the_plot_rises_with_the_values_and_marks_alarms_under_their_steps() -> None:
    lines = shown(made([0.0, 0.1, 0.5, 1.0])).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("predicts text worse  "))
    bars = lines[at].split("  ")[1]
    assert bars == "▁▁▁▁▁▁▅▅▅███"
    start = lines[at].index(bars)
    assert lines[at + 1] == " " * (start + 9) + "▲▲▲"
    assert "0 to +1" in lines[at]
    assert lines[at + 2].startswith("output moved  ")
    assert re.fullmatch(r" +step 100 +400", lines[at + 3])


def test_a_step_without_a_value_leaves_a_gap() -> None:
    (line,) = [line for line in shown(made([0.0, None, 1.0])).splitlines() if line.startswith("predicts text worse  ")]
    assert "▁▁▁   ███" in line


def test_of_several_members_in_one_column_the_worst_is_drawn() -> None:
    values: list[float | None] = [0.0] * 300
    values[151] = 1.0
    lines = shown(made(values), 80).splitlines()
    (row,) = [line for line in lines if line.startswith("predicts text worse  ")]
    assert row.count("█") == 1
    lowest = made(
        values, signals={"margin": signal("prefers", [-one for one in values if one is not None], better="higher")}
    )
    (row,) = [line for line in shown(lowest, 80).splitlines() if line.startswith("prefers  ")]
    assert row.count("▁") == 1


def test_the_table_tells_every_step_with_its_interval_and_alarms() -> None:
    text = shown(made([0.0, 0.25]), 140)
    row = next(line for line in text.splitlines() if line.startswith((" 200", "200")))
    assert re.search(r"pass\s+0\.25 \[0\.24, 0\.26\].*predicts text worse", row)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("members", [1, 2, 30, 400])
@pytest.mark.parametrize("brief", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, members: int, brief: bool) -> None:
    document = made([at / members for at in range(members)])
    assert max(cell_len(line) for line in shown(document, width, brief=brief).splitlines()) <= width


def test_brief_stops_after_the_plot() -> None:
    brief = shown(made([0.0, 0.5]), brief=True)
    assert "predicts text worse  " in brief
    assert "Checkpoints" not in brief
    assert "verdict alone" not in brief
    assert "Fourth." not in brief


def test_members_that_were_not_measured_are_told_with_their_reason() -> None:
    document = made([0.0, 0.5])
    failed = SeriesMember(step=300, model="local:checkpoint-300", state="failed", reason="it holds no weights")
    text = shown(document.model_copy(update={"members": (*document.members, failed)}))
    assert "- step 300, failed: it holds no weights" in text


@pytest.mark.parametrize("status", ["healthy", "watch", "inconclusive", "insufficient_series", "destabilised"])
def test_every_status_is_told_in_a_few_lines(status: Status) -> None:
    first, second, *others = series_in_a_few_lines(made([0.0, 0.5], status))
    assert first == "2 checkpoints, steps 100 to 200, compared with local:sft"
    assert second.startswith(f"{status.replace('_', ' ').upper()}: It begins")
    assert len(others) == 2


def test_what_a_document_holds_is_shown_and_never_obeyed() -> None:
    document = made([0.0, 0.5], reference=HOSTILE, reasons=(HOSTILE,), remarks=(HOSTILE,))
    text = shown(document)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "cleared" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_characters_gets_them(encoding: str) -> None:
    assert re.search(r"predicts text worse  1{6}9{3}  ", shown(made([0.0, 0.01, 1.0]), encoding=encoding))


def test_a_run_without_signals_or_members_is_told() -> None:
    document = made([0.0], "insufficient_series", signals={}, alarms=(), reasons=())
    assert "INSUFFICIENT SERIES" in shown(document)
    empty = document.model_copy(update={"members": ()})
    assert heading(empty) == "No checkpoints, to be compared with local:sft"
    assert "INSUFFICIENT SERIES" in shown(empty)
