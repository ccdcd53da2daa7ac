"""The procedure of an audit, with an engine that measures nothing: who is asked what, in which order."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spinal.audit import (
    Ports,
    TemporaryCaptures,
    Traced,
    audit_pair,
    compare_traces,
    measure_checkpoint,
    trace_checkpoint,
)
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.trace import Trace
from spinal.errors import Cancelled, ModelChanged, PairMismatch
from spinal.profile import MeasurementProfile
from spinal.progress import ProgressSink
from spinal.prompts.sets import PromptSet
from tests.conftest import EXAMPLES
from tests.support import engine_double
from tests.support.engine_double import calls

PROMPTS = PromptSet(tuple(f"question {n}" for n in range(8)), (None,) * 8, "eight")
PROFILE = MeasurementProfile(bootstrap_draws=200, swap_prompts=4)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[str, str]]]:
    """What the double was asked so far, and of which checkpoint."""
    folder = tmp_path / "double"
    folder.mkdir()
    monkeypatch.setenv("SPINAL_DOUBLE_DIR", str(folder))
    return lambda: [(what, source) for _, what, source in calls(folder)]


@pytest.fixture
def ports(tmp_path: Path) -> Ports:
    folder = tmp_path / "captures"
    folder.mkdir()
    return Ports(captures=TemporaryCaptures(folder), engine=lambda: engine_double)


@pytest.fixture(scope="module")
def sides() -> tuple[Checkpoint, Checkpoint]:
    sft, dpo = (resolve_reference(str(EXAMPLES / "checkpoints" / name), roots=None) for name in ("sft", "dpo-short"))
    return sft, dpo


def trace_both(sides: tuple[Checkpoint, Checkpoint], ports: Ports) -> tuple[Traced, Traced]:
    first, second = (trace_checkpoint(side, PROMPTS, PROFILE, ports=ports) for side in sides)
    return first, second


class Remembering(TemporaryCaptures):
    """Finds again what it kept."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.kept: dict[str, Traced] = {}

    def find(self, digest: Callable[[], str]) -> Traced | None:
        return self.kept.get(digest())

    def keep(self, trace: Trace, written: Path) -> Traced:
        self.kept[trace.digest] = Traced(trace, written)
        return self.kept[trace.digest]


def test_a_pair_is_traced_side_by_side_and_compared_once(
    ports: Ports, sides: tuple[Checkpoint, Checkpoint], asked: Callable[[], list[tuple[str, str]]]
) -> None:
    result = audit_pair(*sides, PROMPTS, PROFILE, ports=ports, control=sides[0])
    assert asked() == [
        ("measure", "local:sft"),
        ("measure", "local:dpo-short"),
        ("measure", "local:sft"),
        ("compare", "local:dpo-short"),
        ("account", "local:sft"),
    ]
    assert (result.reference.source, result.candidate.source) == ("local:sft", "local:dpo-short")
    assert result.control is not None


def test_a_control_whose_checkpoint_is_not_at_hand_makes_another_comparison(
    ports: Ports, sides: tuple[Checkpoint, Checkpoint], asked: Callable[[], list[tuple[str, str]]]
) -> None:
    """What carries its change is missing then, and two documents of one digest would differ."""
    reference, candidate = trace_both(sides, ports)
    digests: dict[int, str] = {}
    for knobs in ({}, {"stitch_prompts": 0}):
        profile = PROFILE.model_copy(update=knobs)
        for control in (reference, replace(reference, checkpoint=None)):
            found = compare_traces(reference, candidate, profile, ports=ports, prompts=PROMPTS, control=control)
            digests[len(digests)] = found.digest
    assert digests[0] != digests[1]
    assert digests[2] == digests[3], "no accounts were asked for"
    assert [what for what, _ in asked()].count("account") == 1


def test_a_kept_trace_is_not_measured_again_and_carries_the_names_of_today(
    ports: Ports, sides: tuple[Checkpoint, Checkpoint], asked: Callable[[], list[tuple[str, str]]], tmp_path: Path
) -> None:
    ports = replace(ports, captures=Remembering(tmp_path))
    first = trace_checkpoint(sides[0], PROMPTS, PROFILE, ports=ports)
    other = replace(sides[0], source="local:renamed", revision="abc")
    profile = PROFILE.model_copy(update={"seed": 7})
    second = trace_checkpoint(other, replace(PROMPTS, name="other"), profile, ports=ports)
    assert len(asked()) == 1
    assert second.trace.digest == first.trace.digest
    assert second.trace.provenance == first.trace.provenance
    assert second.checkpoint is other
    assert (second.trace.model.source, second.trace.model.revision) == ("local:renamed", "abc")
    assert second.trace.prompt_set.name == "other"
    assert second.trace.layers == first.trace.layers
    assert (first.trace.profile["seed"], second.trace.profile["seed"]) == (0, 7)


@pytest.mark.parametrize("change", ["weights", "prompts", "profile"])
def test_whatever_a_digest_names_is_measured_anew_when_it_changes(
    ports: Ports,
    sides: tuple[Checkpoint, Checkpoint],
    asked: Callable[[], list[tuple[str, str]]],
    tmp_path: Path,
    change: str,
) -> None:
    ports = replace(ports, captures=Remembering(tmp_path))
    trace_checkpoint(sides[0], PROMPTS, PROFILE, ports=ports)
    trace_checkpoint(
        sides[1] if change == "weights" else sides[0],
        PromptSet(PROMPTS.prompts[:4], (None,) * 4) if change == "prompts" else PROMPTS,
        PROFILE.model_copy(update={"max_tokens": 8}) if change == "profile" else PROFILE,
        ports=ports,
    )
    assert len(asked()) == 2


def test_a_pair_that_does_not_fit_is_refused_before_the_engine_is_loaded(
    ports: Ports, sides: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    def never() -> Any:
        raise AssertionError("the engine was loaded")

    other = Path(shutil.copytree(sides[1].path, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 8}))
    mismatched = resolve_reference(str(other), roots=None)
    for pair, control in (((sides[0], mismatched), None), (sides, mismatched)):
        with pytest.raises(PairMismatch):
            audit_pair(*pair, PROMPTS, PROFILE, ports=replace(ports, engine=never), control=control)


def test_whoever_watches_sees_each_piece_of_work_by_its_name(
    ports: Ports, sides: tuple[Checkpoint, Checkpoint], asked: object
) -> None:
    seen: list[tuple[str, str]] = []

    @contextmanager
    def watch(label: str) -> Iterator[ProgressSink]:
        yield lambda report: seen.append((label, report.phase))

    audit_pair(*sides, PROMPTS, PROFILE, ports=replace(ports, watch=watch))
    assert list(dict(seen)) == ["local:sft", "local:dpo-short", "comparing"]
    assert seen[-1] == ("comparing", "statistics")


def test_cancelling_reaches_the_engine(ports: Ports, sides: tuple[Checkpoint, Checkpoint], asked: object) -> None:
    traced = trace_both(sides, ports)
    stopped = replace(ports, cancelled=lambda: True)
    with pytest.raises(Cancelled):
        trace_checkpoint(sides[0], PROMPTS, PROFILE, ports=stopped)
    with pytest.raises(Cancelled):
        compare_traces(*traced, PROFILE, ports=stopped, prompts=PROMPTS)


def test_hashing_the_weights_for_a_kept_trace_is_cancelled_too(
    ports: Ports, sides: tuple[Checkpoint, Checkpoint], asked: Callable[[], list[object]], tmp_path: Path
) -> None:
    stopped = replace(ports, captures=Remembering(tmp_path), cancelled=lambda: True)
    with pytest.raises(Cancelled, match="phase hash"):
        trace_checkpoint(sides[0], PROMPTS, PROFILE, ports=stopped)
    assert asked() == []


def test_prompts_are_found_by_their_name_through_the_port(
    ports: Ports, sides: tuple[Checkpoint, Checkpoint], asked: object
) -> None:
    found = trace_checkpoint(sides[0], "a name", PROFILE, ports=replace(ports, prompts={"a name": PROMPTS}.__getitem__))
    assert found.trace.prompt_set.digest == PROMPTS.digest


def test_a_checkpoint_that_changed_while_it_was_measured_is_refused_where_it_is_known(
    ports: Ports, sides: tuple[Checkpoint, Checkpoint], asked: object, tmp_path: Path
) -> None:
    known = measure_checkpoint(sides[0], PROMPTS, PROFILE, ports=ports, capture_path=tmp_path / "c")
    again = measure_checkpoint(
        sides[0], PROMPTS, PROFILE, ports=ports, capture_path=tmp_path / "c", expected=known.digest
    )
    assert again.digest == known.digest
    with pytest.raises(ModelChanged):
        measure_checkpoint(sides[1], PROMPTS, PROFILE, ports=ports, capture_path=tmp_path / "c", expected=known.digest)


def test_provenance_of_a_comparison_names_what_the_ports_say(
    ports: Ports, sides: tuple[Checkpoint, Checkpoint], asked: object
) -> None:
    told = replace(ports, command=["spinal-worker", "run:1"], threads=7)
    result = audit_pair(*sides, PROMPTS, PROFILE, ports=told)
    assert (result.provenance.command, result.provenance.threads) == (["spinal-worker", "run:1"], 7)
    untold = audit_pair(*sides, PROMPTS, PROFILE, ports=ports)
    assert (untold.provenance.command, untold.provenance.threads) == (None, 1)


@pytest.mark.parametrize("missing", [0, 1])
def test_the_engine_is_not_asked_for_a_pair_of_which_one_checkpoint_is_not_at_hand(
    ports: Ports, sides: tuple[Checkpoint, Checkpoint], asked: Callable[[], list[tuple[str, str]]], missing: int
) -> None:
    reference, candidate = trace_both(sides, ports)
    if missing == 0:
        reference = replace(reference, checkpoint=None)
    else:
        candidate = replace(candidate, checkpoint=None)
    result = audit_pair(reference, candidate, None, PROFILE, ports=ports)
    assert [what for what, _ in asked()] == ["measure", "measure"]
    assert result.layers[1].block_swap.reason == "checkpoint_not_at_hand"
    assert result.verdict.outcome == "inconclusive"


def test_what_the_procedure_cannot_do_without_is_said(
    ports: Ports, sides: tuple[Checkpoint, Checkpoint], asked: object
) -> None:
    with pytest.raises(ValueError, match="port for captures"):
        trace_checkpoint(sides[0], PROMPTS, PROFILE, ports=replace(ports, captures=None))
    with pytest.raises(ValueError, match="prompts"):
        audit_pair(*sides, None, PROFILE, ports=ports)
    traced = trace_both(sides, ports)
    with pytest.raises(ValueError, match="prompts"):
        compare_traces(*traced, PROFILE, ports=ports)
