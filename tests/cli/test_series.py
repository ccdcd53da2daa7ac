"""A training run from its checkpoints: measured once, kept, and told by its exit code."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import spinal
from spinal.cache.comparisons import COMPARISON
from spinal.documents.series import Series, Status
from spinal.errors import UsageError, WeightsMissing
from spinal.local_series import Plan, Told, series, series_here
from spinal.machine import Machine
from spinal.progress import ProgressSink
from spinal.warm import WARM_BYTES, Warm
from tests.cli.test_cli import DPO, SFT
from tests.cli.test_cli import spinal as command
from tests.cli.test_local import ENGINE, SERVICE, command_without
from tests.support.waiting import until

pytestmark = pytest.mark.model
KNOBS: dict[str, Any] = {
    "max_tokens": 16, "lens_positions": 2, "swap_prompts": 8, "stitch_prompts": 0, "greedy_prompts": 0,
}  # fmt: skip
QUICK = ("--profile", json.dumps(KNOBS), "--threads", "1")
Calls = list[tuple[str, str]]


def saved(folder: Path, step: int, like: str = DPO) -> Path:
    """A checkpoint as a trainer saves it, whose weights no other one has."""
    made = folder / f"checkpoint-{step}"
    shutil.copytree(like, made)
    weights = made / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    # The lowest bits of one small number.
    raw[-2] ^= step % 256
    weights.write_bytes(raw)
    return made


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("".join(f"Human: question number {n} about gardens?\n" for n in range(12)))
    return str(path)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, prompts: str) -> tuple[Path, Path, Series]:
    """A run of two checkpoints, the cache in which they were measured by a first command, and what it printed."""
    folder = tmp_path_factory.mktemp("measured")
    for step in (100, 20):
        saved(folder / "run", step)
    done = command(
        "series", SFT, str(folder / "run"), "--prompts", prompts, *QUICK, "--json", XDG_CACHE_HOME=str(folder / "cache")
    )
    assert done.returncode == 5, done.stderr
    return folder / "run", folder / "cache", Series.model_validate_json(done.stdout)


@pytest.fixture
def run(
    measured: tuple[Path, Path, Series], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[Path, Path, Series]:
    """The same in a folder and a cache of the test's own."""
    folder, cache, first = measured
    shutil.copytree(folder, tmp_path / "run")
    shutil.copytree(cache, tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "run", tmp_path / "cache", first


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """What the engine was asked to do, and on which checkpoint; threads as a command has them."""
    import torch

    from spinal.engine import api

    made: Calls = []

    def counted(name: str) -> Callable[..., Any]:
        whole = getattr(api, name)

        def call(*sides: Any, **options: Any) -> Any:
            made.append((name, sides[-1].source if name == "gather_evidence" else sides[0].source))
            return whole(*sides, **options)

        return call

    for name in ("measure", "gather_evidence"):
        monkeypatch.setattr(api, name, counted(name))
    before = torch.get_num_threads()
    yield made
    torch.set_num_threads(before)


def again(run: Path, prompts: str, **options: Any) -> Series:
    return series(SFT, run, prompts=prompts, threads=1, **(KNOBS | options))


def entries(cache: Path, kind: str) -> list[Path]:
    folder = cache / "spinal" / kind
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_members_stand_in_the_order_of_their_steps_and_the_reference_is_traced_once(
    measured: tuple[Path, Path, Series],
) -> None:
    _, cache, found = measured
    assert [(one.step, one.state, one.model) for one in found.members] == [
        (20, "measured", "local:checkpoint-20"),
        (100, "measured", "local:checkpoint-100"),
    ]
    assert all(one.verdict and one.comparison and one.weights_digest for one in found.members)
    assert len(entries(cache, "traces")) == 3
    assert len(entries(cache, "comparisons")) == 2


def test_a_second_run_computes_nothing_and_needs_no_torch(run: tuple[Path, Path, Series], prompts: str) -> None:
    folder, _, first = run
    done = command_without((*ENGINE, *SERVICE), "series", SFT, str(folder), "--prompts", prompts, *QUICK, "--json")
    assert done.returncode == 5, done.stderr
    assert Series.model_validate_json(done.stdout) == first
    told = command_without((*ENGINE, *SERVICE), "series", SFT, str(folder), "--prompts", prompts, *QUICK)
    assert "2 checkpoints: 2 measured before, 0 to measure" in told.stderr
    assert told.stdout.startswith("2 checkpoints, steps 20 to 100, compared with local:sft\nINSUFFICIENT SERIES: ")


def test_a_call_in_a_process_that_has_torch_finds_what_the_command_measured(
    run: tuple[Path, Path, Series], prompts: str, calls: Calls
) -> None:
    assert again(run[0], prompts) == run[2]
    assert calls == []


def test_the_reference_stays_warm_from_one_checkpoint_to_the_next(
    run: tuple[Path, Path, Series], prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinal.engine import api

    folder, _, _ = run
    given: list[Warm] = []
    whole = api.gather_evidence

    def call(*sides: Any, **options: Any) -> Any:
        given.append(options["warm"])
        return whole(*sides, **options)

    monkeypatch.setattr(api, "gather_evidence", call)
    saved(folder, 60)
    saved(folder, 70)
    again(folder, prompts)
    assert len(given) == 2
    assert given[0] is given[1]
    assert given[0].limit_bytes == WARM_BYTES


def test_a_checkpoint_more_measures_itself_alone(run: tuple[Path, Path, Series], prompts: str, calls: Calls) -> None:
    folder, _, first = run
    saved(folder, 60)
    plans: list[Plan] = []
    measured: list[int] = []
    fractions: dict[str, list[float]] = {}

    @contextmanager
    def watch(label: str) -> Iterator[ProgressSink]:
        yield lambda told: fractions.setdefault(label, []).append(told.fraction)

    machine = Machine(threads=1, watch=watch)
    found = series_here(SFT, folder, prompts, KNOBS, machine, told=Told(plans.append, measured.append))
    assert calls == [("measure", "local:checkpoint-60"), ("gather_evidence", "local:checkpoint-60")]
    assert [one.step for one in found.members] == [20, 60, 100]
    assert [found.members[0], found.members[2]] == list(first.members)
    assert plans == [Plan(members=3, kept=2)]
    assert measured == [60]
    of_the_whole = [each for label, every in fractions.items() if "," in label for each in every]
    assert "step 60 (1 of 1), comparing" in fractions
    assert of_the_whole == sorted(of_the_whole)
    assert of_the_whole[-1] == pytest.approx(1.0)


def test_a_damaged_comparison_is_measured_again_from_the_kept_traces(
    run: tuple[Path, Path, Series], prompts: str, calls: Calls
) -> None:
    folder, cache, first = run
    damaged = entries(cache, "comparisons")[0] / COMPARISON
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 1
    damaged.write_bytes(raw)
    found = again(folder, prompts)
    assert [name for name, _ in calls] == ["gather_evidence"]
    assert found == first


@pytest.mark.parametrize("change", ["knob", "precision"])
def test_other_knobs_and_other_conditions_are_measured_anew(
    run: tuple[Path, Path, Series], prompts: str, calls: Calls, change: str
) -> None:
    import torch

    folder, _, _ = run
    shutil.rmtree(folder / "checkpoint-20")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high" if change == "precision" else before)
        again(folder, prompts, **({"seed": 1} if change == "knob" else {}))
    finally:
        torch.set_float32_matmul_precision(before)
    expected = ["gather_evidence"] if change == "knob" else ["measure", "measure", "gather_evidence"]
    assert [name for name, _ in calls] == expected


def test_another_policy_judges_again_and_measures_nothing(
    run: tuple[Path, Path, Series], prompts: str, calls: Calls
) -> None:
    rule = {"name": "drift", "value": "damage.gap", "bad": "above", "limit": 1e-9, "severity": "fail"}
    found = again(run[0], prompts, policy={"name": "acme-release/1", "rules": [rule]})
    assert calls == []
    assert found.policy == "acme-release/1"
    assert [one.verdict for one in found.members] == ["fail", "fail"]
    assert [one.comparison for one in found.members] == [one.comparison for one in run[2].members]


def test_without_a_cache_nothing_is_kept_and_the_reference_is_traced_once_all_the_same(
    run: tuple[Path, Path, Series], prompts: str, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "untouched"))
    found = again(run[0], prompts, cache=False)
    assert [source for name, source in calls if name == "measure"] == [
        "local:sft", "local:checkpoint-20", "local:checkpoint-100",
    ]  # fmt: skip
    assert [one.comparison for one in found.members] == [one.comparison for one in run[2].members]
    assert not (tmp_path / "untouched").exists()


@pytest.mark.parametrize("damage", ["no files", "no weights", "cut"])
def test_a_checkpoint_that_is_half_written_is_a_member_that_failed_and_is_told(
    run: tuple[Path, Path, Series], prompts: str, damage: str, calls: Calls
) -> None:
    folder, _, first = run
    made = saved(folder, 300)
    weights = made / "model.safetensors"
    if damage == "no files":
        shutil.rmtree(made)
        made.mkdir()
    elif damage == "no weights":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:100_000])
    found = again(folder, prompts)
    assert list(found.members[:2]) == list(first.members)
    last = found.members[2]
    assert (last.step, last.state, last.model, last.comparison) == (300, "failed", "local:checkpoint-300", None)
    assert last.reason
    assert "run it again when its files are final" in last.reason
    assert calls == []


def test_the_command_tells_a_checkpoint_that_cannot_be_measured(run: tuple[Path, Path, Series], prompts: str) -> None:
    (run[0] / "checkpoint-300").mkdir()
    done = command_without((*ENGINE, *SERVICE), "series", SFT, str(run[0]), "--prompts", prompts, *QUICK)
    assert done.returncode == 5, done.stderr
    assert "3 checkpoints: 2 measured before, 0 to measure" in done.stderr
    assert "step 300 cannot be measured: local:checkpoint-300 has no config.json" in done.stderr


def test_where_no_checkpoint_can_be_measured_there_is_no_series(prompts: str, tmp_path: Path) -> None:
    for step in (1, 2):
        (saved(tmp_path, step) / "model.safetensors").unlink()
    with pytest.raises(WeightsMissing):
        again(tmp_path, prompts)


REFUSED: dict[str, tuple[Callable[[Path], tuple[str, ...]], str]] = {
    "no step": (lambda folder: (SFT,), "usage"),
    "two of one step": (lambda folder: (f"5={SFT}", f"5={DPO}"), "usage"),
    "no checkpoint inside": (lambda folder: (str(folder),), "usage"),
    "not there": (lambda folder: (str(folder / "checkpoint-7"),), "model_not_found"),
    "nothing named": (lambda folder: (), "usage"),
    "a plateau after the end": (lambda folder: (f"5={DPO}", "--plateau-from", "6"), "usage"),
    "a base for nothing": (lambda folder: (f"5={DPO}", "--base", SFT), "usage"),
    "no such policy": (lambda folder: (f"5={DPO}", "--policy", "nowhere.yaml"), "usage"),
    "neither fail nor warn": (lambda folder: (f"5={DPO}", "--fail-on", "watch"), "usage"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused_before_anything_is_measured(case: str, tmp_path: Path) -> None:
    made, code = REFUSED[case]
    given = made(tmp_path)
    done = command_without((*ENGINE, *SERVICE), "series", SFT, *given, *QUICK, "--json")
    assert done.returncode == 2, done.stderr
    problem = json.loads(done.stderr)
    assert problem["code"] == code
    assert problem.get("hint")
    assert entries(tmp_path / "user-cache", "traces") == []


@pytest.mark.parametrize(
    ("status", "options", "code"),
    [
        ("healthy", (), 0), ("watch", (), 0), ("watch", ("--fail-on", "warn"), 1), ("destabilised", (), 1),
        ("inconclusive", (), 5), ("inconclusive", ("--fail-on", "warn"), 5), ("insufficient_series", (), 5),
    ],
)  # fmt: skip
def test_the_exit_code_follows_from_the_status(
    run: tuple[Path, Path, Series], monkeypatch: pytest.MonkeyPatch, prompts: str, status: Status,
    options: tuple[str, ...], code: int,
) -> None:  # fmt: skip
    from typer.testing import CliRunner

    import spinal.local_series
    from spinal.cli.main import app

    def assessed(*given: Any, **named: Any) -> Series:
        return run[2].model_copy(update={"status": status, "reasons": ("so it is.",)})

    monkeypatch.setattr(spinal.local_series, "assess", assessed)
    done = CliRunner().invoke(app, ["series", SFT, str(run[0]), "--prompts", prompts, *QUICK, *options])
    assert done.exit_code == code, done.output
    assert f"{status.replace('_', ' ').upper()}: so it is." in done.output


@pytest.mark.parametrize(
    ("options", "code"), [((), 0), (("--fail-on", "fail"), 5), (("--policy", "spinal-default/2"), 2)]
)
def test_a_stored_document_is_shown_and_judged_by_its_exit_code_where_that_is_asked(
    measured: tuple[Path, Path, Series], tmp_path: Path, options: tuple[str, ...], code: int
) -> None:
    path = tmp_path / "run.json"
    path.write_text(measured[2].model_dump_json())
    done = command_without((*ENGINE, *SERVICE), "report", str(path), *options)
    assert done.returncode == code, done.stderr
    if code == 2:
        assert "`spinal series REFERENCE DIR --policy FILE`" in done.stderr
    else:
        assert done.stdout.startswith("2 checkpoints, steps 20 to 100, compared with local:sft\nINSUFFICIENT SERIES: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_was_measured_before_the_end_stays(number: int, prompts: str, tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    for step in range(1, 7):
        saved(run, step)
    line = [sys.executable, "-m", "spinal.cli.main", "series", SFT, str(run), "--prompts", prompts, *QUICK]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    working = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        until(
            lambda: [one for one in entries(cache, "comparisons") if not one.name.startswith("new-")],
            "the first comparison to be kept",
            timeout=300,
        )  # fmt: skip
        working.send_signal(number)
        _, told = working.communicate(timeout=60)
    finally:
        working.kill()
        working.wait()
    if number == signal.SIGINT:
        assert working.returncode == 130
        assert "of 6 checkpoints are measured and kept; run it again to go on" in told
    kept = [one for one in entries(cache, "comparisons") if not one.name.startswith("new-")]
    assert kept
    for step in range(3, 7):
        shutil.rmtree(run / f"checkpoint-{step}")
    # What was measured is found by a process that can measure nothing; had it been lost, this would need torch.
    shutil.rmtree(run / "checkpoint-2")
    done = subprocess.run(
        [sys.executable, "-m", "spinal.cli.main", "series", SFT, str(run), "--prompts", prompts, *QUICK],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert "1 checkpoint: 1 measured before, 0 to measure" in done.stderr


def test_series_is_part_of_the_package() -> None:
    assert spinal.series is series
    with pytest.raises(UsageError, match="no checkpoint"):
        spinal.series(SFT, [])
