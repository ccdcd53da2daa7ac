"""Measuring in this process: the cache, stored traces, and what has to be installed."""

import doctest
import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import spinal.documents.comparison
import spinal.documents.schemas
import spinal.documents.trace
import spinal.local
import spinal.local_series
import spinal.policy.judge
import spinal.policy.values
import spinal.series_members
from spinal.analysis.diff import diff_traces
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.errors import (
    CaptureMissing,
    DocumentInvalid,
    ProfileInvalid,
    StorageUnavailable,
    TracesNotComparable,
    UsageError,
)
from spinal.extras import install_hint
from spinal.profile import TraceKnobs
from spinal.prompts.sets import PromptSet
from tests.cli.test_cli import DPO, QUICK, SFT
from tests.cli.test_cli import spinal as command
from tests.conftest import ROOT

pytestmark = pytest.mark.model
PROMPTS = [f"Human: question number {n} about gardens?" for n in range(24)]
KNOBS: TraceKnobs = {"max_tokens": 32, "lens_positions": 4}
SERVICE = ("celery", "fastapi", "sqlalchemy", "psycopg", "redis", "service", "worker", "alembic", "kombu")
ENGINE = ("torch", "transformers", "peft", "accelerate")
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
{code}
"""


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """The number of threads is the process's, and other tests count on one."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    return str(path)


def without(names: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """``code`` in a process where those packages are not installed."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(names=names, code=code)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip


def command_without(names: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    return without(names, f"sys.argv = {['spinal', *arguments]!r}\nfrom spinal.cli.main import main\nmain()")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str]]:
    """A cache that holds the traces of the bundled pair, and files with these traces."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder))
        for side in (SFT, DPO):
            found = spinal.trace(side, prompts=PROMPTS, threads=1, **KNOBS)
            (folder / f"{Path(side).name}.json").write_text(found.model_dump_json())
    return folder, (str(folder / "sft.json"), str(folder / "dpo-short.json"))


@pytest.fixture
def documents(measured: tuple[Path, tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Files with the traces of the bundled pair, whose captures are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(measured[0]))
    return measured[1]


def test_the_second_trace_of_the_same_is_the_first_one(prompts: str) -> None:
    first, second, third = (
        spinal.trace(SFT, prompts=prompts, threads=1, cache=cache, **KNOBS) for cache in (True, True, False)
    )
    assert second == first, "its provenance is that of its measurement"
    assert third.layers == first.layers
    assert third.provenance.created_at != first.provenance.created_at


def test_the_command_finds_what_was_measured_before(documents: tuple[str, str], prompts: str) -> None:
    done = command("trace", SFT, "--prompts", prompts, "--json", *QUICK)
    found, kept = Trace.model_validate_json(done.stdout), Trace.model_validate_json(Path(documents[0]).read_text())
    assert found.prompt_set.name == "prompts.txt"
    assert (found.layers, found.provenance) == (kept.layers, kept.provenance)


def test_a_comparison_uses_traces_that_were_made_before_and_is_the_same(prompts: str) -> None:
    fresh = spinal.compare(SFT, DPO, prompts=prompts, swap_prompts=8, cache=False, threads=1, **KNOBS)
    traces = [spinal.trace(side, prompts=prompts, threads=1, **KNOBS) for side in (SFT, DPO)]
    kept = spinal.compare(SFT, DPO, prompts=prompts, swap_prompts=8, threads=1, **KNOBS)
    assert kept.model_copy(update={"provenance": fresh.provenance}) == fresh
    assert [kept.reference.digest, kept.candidate.digest] == [trace.digest for trace in traces]


@pytest.mark.parametrize("change", [{"max_tokens": 24}, {"threads": 2}, {"prompts": PROMPTS[:20]}, {"model": DPO}])
def test_whatever_may_change_a_number_is_measured_anew(change: dict[str, object]) -> None:
    given: dict[str, Any] = {"model": SFT, "prompts": PROMPTS, "threads": 1} | KNOBS
    first = spinal.trace(**given)
    other = spinal.trace(**(given | change))
    assert other.provenance.created_at != first.provenance.created_at


def test_no_cache_neither_reads_nor_writes(prompts: str, tmp_path: Path) -> None:
    done = command("trace", SFT, "--prompts", prompts, "--no-cache", *QUICK, "-o", str(tmp_path / "one.json"))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "user-cache").exists()


def test_two_stored_traces_are_compared_without_checkpoints_and_without_torch(
    documents: tuple[str, str], prompts: str
) -> None:
    done = command_without((*ENGINE, *SERVICE), "compare", *documents, "--json")
    assert done.returncode == 5, done.stderr
    found = Comparison.model_validate_json(done.stdout)
    whole = Comparison.model_validate_json(
        command("compare", SFT, DPO, "--prompts", prompts, "--json", *QUICK, "--swap-prompts", "8").stdout
    )
    assert found.verdict.outcome == "inconclusive"
    assert found.layers[24].block_swap.reason == "checkpoint_not_at_hand"
    for mine, theirs in zip(found.layers, whole.layers, strict=True):
        assert (mine.d_contraction, mine.d_transport, mine.d_entropy) == (
            theirs.d_contraction, theirs.d_transport, theirs.d_entropy,
        )  # fmt: skip
    assert found.layers[24].d_transport.all.ci is not None
    assert found.scores.ci["delta_align"] == whole.scores.ci["delta_align"]


def test_a_stored_trace_is_compared_with_a_checkpoint_on_its_own_terms(
    documents: tuple[str, str], prompts: str
) -> None:
    both = spinal.compare(*documents)
    mixed = spinal.compare(documents[0], DPO, prompts=prompts)
    assert mixed.layers == both.layers
    assert mixed.verdict.outcome == "inconclusive"
    with pytest.raises(UsageError, match="prompts of local:sft are not known"):
        spinal.compare(documents[0], DPO)
    with pytest.raises(TracesNotComparable, match="other prompts"):
        spinal.compare(documents[0], DPO, prompts=PROMPTS[:20])
    with pytest.raises(TracesNotComparable, match="other prompts"):
        spinal.compare(*documents, prompts=PROMPTS[:20])


def test_a_stored_trace_may_be_the_control_of_a_pair_at_hand(documents: tuple[str, str], prompts: str) -> None:
    whole = spinal.compare(SFT, DPO, prompts=prompts, control=documents[0], swap_prompts=8, **KNOBS)
    assert whole.layers[24].block_swap.value
    assert whole.nulls["control"].contrast["delta_align"].value == pytest.approx(whole.scores.delta_align)


def test_knobs_of_a_measurement_cannot_be_changed_afterwards(documents: tuple[str, str]) -> None:
    with pytest.raises(ProfileInvalid, match="measured with 32"):
        spinal.compare(*documents, max_tokens=64)
    told = spinal.compare(*documents, max_tokens=32, bootstrap_draws=200)
    assert told.profile["bootstrap_draws"] == 200


def test_without_its_capture_a_trace_is_refused_and_told_how_to_get_it(
    documents: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(CaptureMissing):
        spinal.compare(*documents, cache=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another-machine"))
    done = command("compare", *documents)
    assert done.returncode == 3
    cause, hint = done.stderr.splitlines()
    assert "local:sft" in cause
    assert "trace the checkpoint here" in hint
    assert done.stdout == ""


def test_numbers_that_were_changed_have_no_capture(documents: tuple[str, str], tmp_path: Path) -> None:
    changed = json.loads(Path(documents[0]).read_text())
    changed["layers"][5]["positions"]["all"]["entropy"] += 0.5
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(changed))
    with pytest.raises(CaptureMissing):
        spinal.compare(path, documents[1])


def test_a_comparison_is_no_side_of_one(documents: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(spinal.compare(*documents).model_dump_json())
    with pytest.raises(DocumentInvalid, match=r"spinal\.comparison/1"):
        spinal.compare(path, documents[1])


def test_prompts_are_taken_in_every_form(prompts: str) -> None:
    made = PromptSet(tuple(PROMPTS), (None,) * len(PROMPTS))
    for given in (prompts, Path(prompts), PROMPTS, tuple(PROMPTS), made):
        assert spinal.local.read_prompts(given).digest == made.digest


def test_measuring_needs_nothing_of_the_service(prompts: str) -> None:
    code = (
        "import spinal\n"
        f"found = spinal.compare({SFT!r}, {DPO!r}, prompts={prompts!r}, max_tokens=16, lens_positions=2, "
        "swap_prompts=4, threads=1)\n"
        "print(found.verdict.outcome, found.layers[24].block_swap.value > 0)"
    )
    done = without(SERVICE, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "True"


@pytest.mark.parametrize("more", [(), ("--no-cache",)])
def test_without_the_engine_the_error_names_the_extra_to_install(prompts: str, more: tuple[str, ...]) -> None:
    done = command_without(ENGINE, "trace", SFT, "--prompts", prompts, "--json", *more)
    assert done.returncode == 2, done.stderr
    problem = json.loads(done.stderr)
    assert (problem["code"], problem["hint"]) == ("usage", install_hint("local"))


def test_a_full_disk_is_named_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "capture.safetensors")

    monkeypatch.setattr(spinal.local, "trace_checkpoint", full)
    with pytest.raises(StorageUnavailable, match=r"capture\.safetensors") as refused:
        spinal.trace(SFT, prompts=PROMPTS)
    assert "XDG_CACHE_HOME" in (refused.value.hint or "")


def test_a_diff_is_read_and_has_no_report(documents: tuple[str, str], tmp_path: Path) -> None:
    sides = [Trace.model_validate_json(Path(path).read_text()) for path in documents]
    path = tmp_path / "diff.json"
    path.write_text(diff_traces(*sides).model_dump_json())
    assert spinal.load(path) == diff_traces(*sides)
    done = command("report", str(path), "--json")
    assert (done.returncode, json.loads(done.stderr)["code"]) == (2, "document_invalid")


@pytest.mark.parametrize(
    "module",
    [
        spinal, spinal.local, spinal.local_series, spinal.series_members, spinal.documents.trace,
        spinal.documents.comparison, spinal.documents.schemas, spinal.policy.judge, spinal.policy.values,
    ],
)  # fmt: skip
def test_examples_run_as_they_stand(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    runner = doctest.DocTestRunner()
    tests = [test for test in doctest.DocTestFinder().find(module, extraglobs={}) if test.examples]
    assert tests
    for test in tests:
        runner.run(test)
    assert runner.failures == 0
