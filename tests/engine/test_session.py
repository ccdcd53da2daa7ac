"""A model is opened once for a measurement, and what was asked for is told apart from what memory allowed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine import measure as measuring
from spinal.engine import pair as pairing
from spinal.engine import session as opening
from spinal.engine import walk
from spinal.engine.api import gather_evidence, measure
from spinal.engine.reporter import Reporter
from spinal.engine.session import Setup, open_pair, open_session
from spinal.errors import Cancelled
from spinal.profile import MeasurementProfile
from spinal.progress import Progress, ignore_progress, never_cancelled
from spinal.prompts.sets import PromptSet
from tests.engine.conftest import KNOBS

Tiny = Callable[..., Path]
PROFILE = MeasurementProfile(**KNOBS)
STEPS = ("load", "load_pair", "tokenize", "find_anatomy", "lens_rows")
"""What opening a model takes."""


def of(folder: Path) -> Checkpoint:
    return resolve_reference(os.fspath(folder), roots=None)


def setup(prompts: PromptSet, batch_size: int) -> Setup:
    return Setup(prompts, PROFILE, batch_size, "cpu", False, Reporter(ignore_progress, never_cancelled))


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each step of opening a model was taken."""
    found = dict.fromkeys(STEPS, 0)

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(opening, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return original(*args, **kwargs)

        return call

    for name in STEPS:
        monkeypatch.setattr(opening, name, counted(name))
    return found


def test_a_measurement_opens_one_session(tiny: Tiny, few: PromptSet, tmp_path: Path, counts: dict[str, int]) -> None:
    measure(of(tiny("llama")), few, PROFILE, capture_path=tmp_path / "c")
    assert counts == {"load": 1, "load_pair": 0, "tokenize": 1, "find_anatomy": 1, "lens_rows": 1}


def test_evidence_opens_one_session_for_each_side(
    tiny: Tiny, few: PromptSet, tmp_path: Path, counts: dict[str, int]
) -> None:
    for seed in (0, 1):
        measure(of(tiny("llama", seed=seed)), few, PROFILE, capture_path=tmp_path / str(seed))
    counts.update(dict.fromkeys(STEPS, 0))
    gather_evidence(
        of(tiny("llama")), of(tiny("llama", seed=1)), reference_capture=tmp_path / "0",
        candidate_capture=tmp_path / "1", prompts=few, profile=PROFILE,
    )  # fmt: skip
    # Block swap reads fewer prompts, so that their rows are chosen once more.
    assert counts == {"load": 0, "load_pair": 1, "tokenize": 2, "find_anatomy": 2, "lens_rows": 3}


def test_work_with_less_memory_opens_the_model_again_with_the_profile_that_was_asked_for(
    tiny: Tiny, few: PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failed attempt may have spoilt what it opened: matched noise overwrites the candidate."""
    opened: list[tuple[int, int, int]] = []
    original = opening.open_session

    def open_one(checkpoint: Checkpoint, given: Setup) -> Any:
        opened.append((given.asked.batch_size, given.batch_size, given.profile.batch_size))
        return original(checkpoint, given)

    def fail(_anatomy: object, batch: Any, source: str) -> Any:
        if len(batch.members) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return prepare(_anatomy, batch, source)  # type: ignore[arg-type]  # passed through

    prepare = walk._prepare_one
    monkeypatch.setattr(measuring, "open_session", open_one)
    monkeypatch.setattr(walk, "_prepare_one", fail)
    trace = measure(of(tiny("llama")), few, PROFILE, capture_path=tmp_path / "c")
    assert opened == [(8, 8, 8), (8, 4, 4)]
    assert trace.fingerprint == PROFILE.fingerprint
    assert trace.profile["batch_size"] == 8


def test_a_session_knows_its_model_and_what_is_read_of_the_prompts(tiny: Tiny, few: PromptSet) -> None:
    session = open_session(of(tiny("llama")), setup(few, 4))
    assert session.anatomy is session.readout.anatomy
    assert (session.nodes, session.prompts) == (len(session.anatomy.blocks) + 1, len(few))
    assert session.gathered.prompts == len(few)
    assert [len(batch.members) for batch in session.batches()] == [4] * 6
    assert session.setup.asked.batch_size == 8
    fewer = session.narrowed(5)
    assert (fewer.prompts, fewer.gathered.prompts) == (5, 5)
    assert fewer.tokens.ids == session.tokens.ids[:5]
    assert fewer.loaded is session.loaded


def test_both_sides_of_a_pair_read_the_same_rows(tiny: Tiny, few: PromptSet) -> None:
    ours, theirs = open_pair(of(tiny("llama")), of(tiny("llama", seed=1)), setup(few, 8))
    assert ours.tokens == theirs.tokens
    assert (ours.gathered.position == theirs.gathered.position).all()
    assert ours.loaded is not theirs.loaded


def test_evidence_that_is_cancelled_in_the_middle_of_a_lens_says_so(
    tiny: Tiny, few: PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = of(tiny("llama"))
    measure(side, few, PROFILE, capture_path=tmp_path / "c")
    told: list[Progress] = []
    asked: list[str] = []

    def cancelled() -> bool:
        """From the second look after the gap began: between two pieces of its first lens."""
        if told and told[-1].phase == "gap":
            asked.append(told[-1].phase)
        return len(asked) > 1

    monkeypatch.setattr(pairing, "_hidden_change", lambda *_: pytest.fail("the gap was left by no error"))
    with pytest.raises(Cancelled, match="gap"):
        gather_evidence(
            side, side, reference_capture=tmp_path / "c", candidate_capture=tmp_path / "c", prompts=few,
            profile=PROFILE, progress=told.append, cancelled=cancelled,
        )  # fmt: skip
