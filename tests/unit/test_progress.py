"""What is said while work goes on: an estimate once it means something, a line a minute off a terminal."""

import pytest

from spinal.cli.progress import Estimate, Watch, in_words, of_audit
from spinal.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_estimate_is_hidden_until_it_means_something_and_then_follows_the_fraction() -> None:
    clock = Clock()
    estimate = Estimate(clock)
    assert estimate.left(0.0) is None
    clock.now += 1.0
    assert estimate.left(0.5) is None, "a second tells nothing"
    clock.now += 9.0
    assert estimate.left(0.01) is None, "a hundredth tells nothing"
    clock.now += 10.0
    assert estimate.left(0.25) == pytest.approx(60.0)
    assert estimate.left(1.0) == 0.0


def test_what_was_done_before_anybody_watched_is_no_speed() -> None:
    clock = Clock()
    estimate = Estimate(clock)
    estimate.left(0.8)
    clock.now += 20.0
    # A tenth in 20 s, a tenth to go.
    assert estimate.left(0.9) == pytest.approx(20.0)


def test_off_a_terminal_there_is_a_line_a_minute_over_all_pieces_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    watch = Watch(clock, terminal=False)
    for label in ("local:sft", "local:dpo"):
        with watch(label) as show:
            for block in range(1, 101):
                clock.now += 1.0
                show(Progress("walk", block, 100, block / 100))
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    # 200 s of work: after 5 s, and then every minute.
    assert len(lines) == 4
    assert lines[0] == "local:sft: walking the blocks 6/100, about 2 min left"
    assert lines[1] == "local:sft: walking the blocks 66/100, about 30 s left"
    assert lines[2].startswith("local:dpo: walking the blocks 26/100")


def test_a_fetch_is_told_in_bytes_of_all_of_them() -> None:
    assert in_words(Progress("fetch", 1_000_000, 3_964_776, 0.25), None) == "fetching the checkpoint 1.0 of 4.0 MB"
    assert in_words(Progress("fetch", 0, 982, 0.0), None) == "fetching the checkpoint 0 of 982 bytes"
    assert in_words(Progress("fetch", 999_999, 999_999, 0.0), None) == "fetching the checkpoint 1000.0 of 1000.0 kB"


def test_pieces_of_one_whole_are_estimated_as_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    watch = Watch(clock, terminal=False, whole=True)
    for piece in range(4):
        with watch(f"step {piece}") as show:
            for block in range(1, 31):
                clock.now += 1.0
                show(Progress("walk", block, 30, (piece + block / 30) / 4))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    # Of 120 s, one was over when the first report came; a piece by itself would have 24 s left at its 6th.
    assert lines[0] == "step 0: walking the blocks 6/30, about 2 min left"
    assert lines[1] == "step 2: walking the blocks 6/30, about 50 s left"


def test_short_work_says_nothing_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Watch(clock, terminal=False)("x") as show:
        for step in range(4):
            clock.now += 1.0
            show(Progress("lens", step, 4, step / 4))
    assert capsys.readouterr().err == ""


def test_hostile_names_of_work_stay_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Watch(clock, terminal=False)("x\x1b[2K\ny") as show:
        show(Progress("lens", 0, 1, 0.0))
        clock.now += 60.0
        show(Progress("lens", 0, 1, 0.5))
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "\x1b" not in told


def test_phases_are_said_in_words() -> None:
    assert in_words(Progress("accounts", 1, 1, 0.5), None) == "what carries the change"
    assert in_words(Progress("walk", 12, 24, 0.5), 170.0) == "walking the blocks 12/24, about 3 min left"
    assert in_words(Progress("a later phase", 1, 2, 0.5), None) == "a later phase"


def test_an_audit_is_where_its_slowest_run_is() -> None:
    def run(state: str, phase: str | None, done: int | None, total: int | None, fraction: float) -> dict[str, object]:
        return {"state": state, "attempt": 1, "phase": phase, "done": done, "total": total, "fraction": fraction}

    runs = {"candidate": run("RUNNING", "walk", 6, 24, 0.2), "reference": run("SUCCEEDED", "store", 1, 1, 1.0)}
    running = {"progress": {"phase": "walk", "fraction": 0.6, "runs": runs}}
    assert in_words(of_audit(running), None) == "walking the blocks 6/24"
    queued = {
        "progress": {"phase": "waiting", "fraction": 0.0, "runs": {"candidate": run("QUEUED", None, None, None, 0.0)}}
    }
    assert in_words(of_audit(queued), None) == "queued, waiting for a worker"


def test_a_queued_audit_says_its_place_at_once_then_on_change_and_no_more_than_a_line_a_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with Watch(clock, terminal=False, at_once=True)("local:new") as show:
        for second in range(600):
            ahead = 3 if second < 90 else 2
            audit = {
                "state": "QUEUED",
                "queue": {"summary": f"{ahead} before it, it starts within 2 min"},
                "progress": {"phase": "waiting", "fraction": 0.0, "runs": {}},
            }
            show(of_audit(audit))
            clock.now += 1.0
    assert capsys.readouterr().err.splitlines() == [
        "local:new: QUEUED: 3 before it, it starts within 2 min",
        "local:new: QUEUED: 2 before it, it starts within 2 min",
        "local:new: QUEUED: 2 before it, it starts within 2 min",
    ]


@pytest.mark.parametrize("queue", [None, {}, {"summary": None}, {"summary": 7}])
def test_a_service_that_says_nothing_of_its_queue_is_read_as_before(queue: object) -> None:
    audit = {"state": "QUEUED", "queue": queue, "progress": {"phase": "waiting", "fraction": 0.0, "runs": {}}}
    assert in_words(of_audit(audit), None) == "queued, waiting for a worker"
