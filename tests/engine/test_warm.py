"""What is kept of a reference between calls changes no number, stays within its bound and is gone after a failure."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spinal.audit import Ports, Traced, compare_traces, measure_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.transport import Readout
from spinal.engine.warm import Reference
from spinal.errors import Cancelled, ModelChanged
from spinal.profile import MeasurementProfile
from spinal.progress import Progress
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet
from spinal.warm import Warm
from tests.engine.architectures import build
from tests.engine.conftest import KNOBS

ROOMY = 2**30
PROFILE = MeasurementProfile(**KNOBS | {"stitch_prompts": 2})


@pytest.fixture(scope="module")
def few() -> PromptSet:
    known = builtin_prompts("hh-harmless-64")
    return PromptSet(known.prompts[:8], known.continuations[:8])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A reference and three members of its run: two with every tensor moved, and one with block 2 alone."""
    root = tmp_path_factory.mktemp("run")
    folders = [build("llama", root / "reference", seed=0)]
    for number in (1, 2, 3):
        folders.append(root / f"member-{number}")
        shutil.copytree(folders[0], folders[-1])
        nudge(folders[-1], number, only=".layers.1." if number == 3 else "")
    return folders


def nudge(folder: Path, seed: int, only: str = "") -> None:
    """Move the weights by a hundredth of their size."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in tensors.items():
        if only in name:
            noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std().nan_to_num(0.0) * 0.01
            tensors[name] = (tensor.float() + noise).to(tensor.dtype)
    save_file(tensors, path, metadata={"format": "pt"})


class Auditing:
    """Traces and comparisons as a worker carries them out, one after the other, with one :class:`Warm`."""

    def __init__(self, place: Path, few: PromptSet, profile: MeasurementProfile = PROFILE, **ports: Any) -> None:
        place.mkdir(exist_ok=True, parents=True)
        self._place, self._few, self._profile = place, few, profile
        self.ports = Ports(**ports)

    def trace(self, folder: Path) -> Traced:
        path = self._place / f"{folder.name}.safetensors"
        checkpoint = resolve_reference(os.fspath(folder), roots=None)
        return Traced(
            measure_checkpoint(checkpoint, self._few, self._profile, ports=self.ports, capture_path=path),
            path,
            checkpoint,
        )

    def compare(self, reference: Traced, candidate: Traced, control: Traced | None = None) -> dict[str, Any]:
        made = compare_traces(reference, candidate, self._profile, ports=self.ports, prompts=self._few, control=control)
        return told(made)


def told(document: Any) -> dict[str, Any]:
    """All of a document but when and how it was made."""
    content: dict[str, Any] = document.model_dump(mode="json", exclude={"provenance"})
    return content


def bits(capture: Path) -> dict[str, bytes]:
    """Every tensor of a capture."""
    return {
        name: tensor.contiguous().view(torch.uint8).numpy().tobytes() for name, tensor in load_file(capture).items()
    }


def audit_depth(folder: Path) -> int:
    """D."""
    return resolve_reference(os.fspath(folder), roots=None).n_layers or 0


def kept(warm: Warm) -> Reference:
    found = warm.take()
    assert isinstance(found, Reference)
    warm.put(found)
    return found


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How many logits were computed."""
    count, logits = 0, Readout.logits

    def counting(self: Readout, normed: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        nonlocal count
        made = logits(self, normed, start, stop)
        count += made.numel()
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Readout, "logits", counting)
        yield lambda: count


WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "sampled": {"swap_prompts": 5},
    "streamed": {"stream": True},
    "noise": {"noise_draws": 2},
    "control": {"control": True},
    "last": {"lens_positions": 1},
    "joint": {"continuation_walk": "joint"},
    "bfloat16": {"dtype": "checkpoint"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", ["traced first", "one by one"])
def test_a_warm_reference_changes_no_bit(way: str, order: str, run: list[Path], few: PromptSet, tmp_path: Path) -> None:
    knobs = dict(WAYS[way])
    stream, controlled = knobs.pop("stream", False), knobs.pop("control", False)
    profile = PROFILE.model_copy(update=knobs)
    folders = run
    if way == "bfloat16":
        folders = [build("qwen2", tmp_path / "reference", seed=0, dtype=torch.bfloat16)]
        for number in (1, 2):
            shutil.copytree(folders[0], tmp_path / f"member-{number}")
            nudge(tmp_path / f"member-{number}", number)
            folders.append(tmp_path / f"member-{number}")
    results = []
    for name, warm in (("cold", Warm()), ("warm", Warm(ROOMY))):
        audit = Auditing(tmp_path / name, few, profile, stream=stream, warm=warm)
        reference = audit.trace(folders[0])
        control = audit.trace(folders[1]) if controlled else None
        members = folders[1:] if way == "whole" else folders[1:3]
        if order == "traced first":
            traced = [audit.trace(member) for member in members]
            found = [audit.compare(reference, each, control) for each in traced]
        else:
            traced, found = [], []
            for member in members:
                traced.append(audit.trace(member))
                found.append(audit.compare(reference, traced[-1], control))
        if warm.limit_bytes:
            assert kept(warm).gaps
            assert kept(warm).walk is not None
        everything = (reference, *traced)
        results.append(([told(each.trace) for each in everything], [bits(each.capture) for each in everything], found))
    assert results[0] == results[1]


def test_rows_that_are_equal_under_another_read_out_are_not_at_distance_0(
    run: list[Path], few: PromptSet, tmp_path: Path
) -> None:
    """A member whose head alone moved: all its residuals are those of the reference."""
    member = tmp_path / "member"
    shutil.copytree(run[0], member)
    nudge(member, 4, only="lm_head.")
    found = []
    for name, warm in (("cold", Warm()), ("warm", Warm(ROOMY))):
        audit = Auditing(tmp_path / name, few, PROFILE.model_copy(update={"stitch_prompts": 0}), warm=warm)
        # The second member is read beside the reference that the first was compared with.
        reference, first = audit.trace(run[0]), audit.trace(run[1])
        audit.compare(reference, first)
        found.append(audit.compare(reference, audit.trace(member)))
    assert found[1] == found[0]


def test_a_second_member_reads_nothing_of_the_reference(
    run: list[Path], few: PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = PROFILE.model_copy(update={"stitch_prompts": 0})
    read: dict[str, list[int]] = {}
    for name, warm in (("cold", Warm()), ("warm", Warm(ROOMY))):
        audit = Auditing(tmp_path / name, few, profile, warm=warm)
        reference = audit.trace(run[0])
        for member in run[1:3]:
            with counted(monkeypatch) as count:
                trace = audit.trace(member)
                traced = count()
                audit.compare(reference, trace)
            read.setdefault(name, []).append(count() - traced)
    states = reference.trace.model.n_layers + 1
    # Cold: both sides, the nodes of the swap, the swapped blocks, and the candidate through the reference's read-out.
    share = read["cold"][0] / (3 * states + states + states - 1)
    assert share == int(share)
    assert read["cold"] == [share * (5 * states - 1)] * 2
    # The reference was kept from its trace, where the swap begins with the same rows, and the candidate was read beside
    # it: what is left are the swapped blocks and that read-out.
    assert read["warm"] == [share * (2 * states - 1)] * 2


def test_a_reference_that_was_traced_elsewhere_is_read_once(
    run: list[Path], few: PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Auditing(tmp_path / "elsewhere", few)
    traced = [elsewhere.trace(folder) for folder in run[:3]]
    here = Auditing(tmp_path / "here", few, PROFILE.model_copy(update={"stitch_prompts": 0}), warm=Warm(ROOMY))
    read = []
    for member in traced[1:]:
        with counted(monkeypatch) as count:
            here.compare(traced[0], member)
        read.append(count())
    states = traced[0].trace.model.n_layers + 1
    assert read[0] * (3 * states - 1) == read[1] * (4 * states - 1)


def test_another_reference_takes_the_place_of_the_first(run: list[Path], few: PromptSet, tmp_path: Path) -> None:
    warm = Warm(ROOMY)
    audit, cold = Auditing(tmp_path / "warm", few, warm=warm), Auditing(tmp_path / "cold", few)
    traced = [audit.trace(folder) for folder in run[:3]]
    audit.compare(traced[0], traced[1])
    first = kept(warm).key
    found = audit.compare(traced[1], traced[2])
    assert kept(warm).key != first
    assert found == cold.compare(traced[1], traced[2])
    # A trace of something else does not.
    second = kept(warm).key
    audit.trace(run[3])
    assert kept(warm).key == second


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_no_more_is_kept_than_allowed(share: float, run: list[Path], few: PromptSet, tmp_path: Path) -> None:
    full = Warm(ROOMY)
    audit = Auditing(tmp_path / "full", few, warm=full)
    traced = [audit.trace(folder) for folder in run[:3]]
    wanted = [audit.compare(traced[0], member) for member in traced[1:]]
    limit = int(kept(full).nbytes * share)
    tight = Auditing(tmp_path / "tight", few, warm=Warm(limit))
    again = [tight.trace(folder) for folder in run[:3]]
    assert [tight.compare(again[0], member) for member in again[1:]] == wanted
    assert kept(tight.ports.warm).nbytes <= limit


def test_what_logits_take_is_what_was_said(run: list[Path], few: PromptSet, tmp_path: Path) -> None:
    warm = Warm(ROOMY)
    audit = Auditing(tmp_path, few, PROFILE.model_copy(update={"swap_prompts": 5}), warm=warm)
    audit.compare(*(audit.trace(folder) for folder in run[:2]))
    assert len(kept(warm).lenses) == 2
    assert all(lens.logits.complete for lens in kept(warm).lenses)
    walk = kept(warm).walk
    assert walk is not None
    assert len(walk.hidden) == audit_depth(run[0])


@pytest.mark.parametrize("phase", ["swap", "gap"])
def test_a_cancelled_comparison_leaves_nothing(phase: str, run: list[Path], few: PromptSet, tmp_path: Path) -> None:
    warm, stop = Warm(ROOMY), False

    @contextmanager
    def watch(_label: str) -> Iterator[Callable[[Progress], None]]:
        def show(told: Progress) -> None:
            nonlocal stop
            stop = stop or (told.phase == phase and told.done > 0)

        yield show

    audit = Auditing(tmp_path / "warm", few, warm=warm)
    traced = [audit.trace(folder) for folder in run[:3]]
    audit.compare(traced[0], traced[1])
    halted = Auditing(tmp_path / "halted", few, warm=warm, watch=watch, cancelled=lambda: stop)
    with pytest.raises(Cancelled):
        halted.compare(traced[0], traced[2])
    assert stop
    assert warm.take() is None
    assert audit.compare(traced[0], traced[2]) == Auditing(tmp_path / "cold", few).compare(traced[0], traced[2])


def test_a_reference_whose_files_changed_is_not_the_one_that_is_kept(
    run: list[Path], few: PromptSet, tmp_path: Path
) -> None:
    reference = tmp_path / "reference"
    shutil.copytree(run[0], reference)
    warm = Warm(ROOMY)
    audit = Auditing(tmp_path / "warm", few, warm=warm)
    traced = [audit.trace(folder) for folder in (reference, run[1], run[2])]
    audit.compare(traced[0], traced[1])
    nudge(reference, 9)
    with pytest.raises(ModelChanged):
        audit.compare(traced[0], traced[2])
    assert audit.compare(audit.trace(reference), traced[2]) == Auditing(tmp_path / "cold", few).compare(
        Auditing(tmp_path / "cold", few).trace(reference), traced[2]
    )


def test_what_is_kept_is_given_up_before_batches_are_halved(
    run: list[Path], few: PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spinal.engine.pair

    warm, sizes = Warm(ROOMY), []
    audit = Auditing(tmp_path / "warm", few, warm=warm)
    traced = [audit.trace(folder) for folder in run[:2]]
    wanted = Auditing(tmp_path / "cold", few).compare(*traced)
    walked = spinal.engine.pair.block_swap

    def short_once(ours: Any, *args: Any) -> Any:
        sizes.append(ours.setup.batch_size)
        if len(sizes) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return walked(ours, *args)

    monkeypatch.setattr(spinal.engine.pair, "block_swap", short_once)
    assert audit.compare(*traced) == wanted
    assert sizes == [PROFILE.batch_size] * 2
    assert warm.take() is None
