"""Running out of memory: once more with half the batch, then an error that names both sizes."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from spinal.checkpoints.resolve import resolve_reference
from spinal.engine import walk
from spinal.engine.api import gather_evidence, measure
from spinal.errors import OutOfMemory
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from tests.engine.conftest import KNOBS

Tiny = Callable[..., Path]
PROFILE = MeasurementProfile(**KNOBS)
FITS = 4


PROBED = 2
"""Prompts in the largest batch of the probes, which come first."""


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device on which batches of more than ``FITS`` prompts run out of memory; returns the sizes tried."""
    tried: list[int] = []
    original = walk._prepare_one

    def prepare(anatomy: object, batch: object, source: str) -> object:
        size = len(batch.members)  # type: ignore[attr-defined]  # a Batch
        tried.append(size)
        if size > FITS:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(anatomy, batch, source)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(walk, "_prepare_one", prepare)
    return tried


def test_half_the_batch_is_tried_once_and_said(
    tiny: Tiny, few: PromptSet, tmp_path: Path, small_device: list[int]
) -> None:
    checkpoint = resolve_reference(os.fspath(tiny("llama")), roots=None)
    trace = measure(checkpoint, few, PROFILE, capture_path=tmp_path / "c")
    first, *others = [size for size in small_device if size > PROBED]
    assert first == 8
    assert max(others) == 4
    assert any("4 prompts at a time instead of 8" in warning for warning in trace.warnings)
    plain = measure(checkpoint, few, PROFILE.model_copy(update={"batch_size": 4}), capture_path=tmp_path / "d")
    mine, theirs = ([layer.positions["all"].entropy for layer in one.layers] for one in (trace, plain))
    assert mine == theirs
    assert trace.digest != plain.digest, "it is the profile that was asked for"
    evidence = gather_evidence(
        checkpoint, checkpoint, reference_capture=tmp_path / "c", candidate_capture=tmp_path / "c", prompts=few,
        profile=PROFILE,
    )  # fmt: skip
    assert not np.any(evidence.block_swap)


def test_when_half_does_not_suffice_both_sizes_are_named(
    tiny: Tiny, few: PromptSet, tmp_path: Path, small_device: list[int]
) -> None:
    checkpoint = resolve_reference(os.fspath(tiny("llama")), roots=None)
    profile = PROFILE.model_copy(update={"batch_size": 20})
    with pytest.raises(OutOfMemory, match="at batch size 20 and at 10") as caught:
        measure(checkpoint, few, profile, capture_path=tmp_path / "c")
    assert caught.value.extra["batch_sizes"] == [20, 10]
    assert not caught.value.retryable
    assert not (tmp_path / "c").exists()
