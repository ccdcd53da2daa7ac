"""The matched-noise control: as large as the candidate's change, tensor by tensor, and measured like a trace."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.capture import load_capture
from spinal.documents.evidence import NoiseDraw
from spinal.documents.trace import Trace
from spinal.engine.api import gather_evidence
from spinal.engine.load import LoadedModel, load
from spinal.engine.noise import changes, perturb
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from tests.engine.conftest import KNOBS

Tiny = Callable[..., Path]
Traced = Callable[..., tuple[Trace, Path]]


def opened(folder: Path) -> LoadedModel:
    return load(resolve_reference(os.fspath(folder), roots=None), MeasurementProfile(**KNOBS), "cpu")


@pytest.fixture
def sides(tiny: Tiny) -> tuple[LoadedModel, LoadedModel]:
    """A model, and one that differs from it in all of block 1 but nowhere else."""
    ours, theirs = opened(tiny("llama")), opened(tiny("llama"))
    generator = torch.Generator().manual_seed(3)
    for parameter in theirs.model.model.layers[1].parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return ours, theirs


def test_every_tensor_moves_as_far_as_the_candidates(sides: tuple[LoadedModel, LoadedModel]) -> None:
    ours, theirs = (side.model for side in sides)
    before = {name: parameter.clone() for name, parameter in ours.named_parameters()}
    norms = changes(ours, theirs)
    assert {name for name, norm in norms.items() if norm} == {n for n in before if ".layers.1." in n}
    perturb(ours, theirs, norms, seed=0, draw=0)
    for name, parameter in theirs.named_parameters():
        assert torch.equal(before[name], ours.get_parameter(name)), "the reference must stay as it is"
        # float32 sums of the perturbed tensor: one rounding per element.
        assert float((parameter.double() - before[name].double()).norm()) == pytest.approx(norms[name], rel=1e-5)


def test_draws_are_seeded_and_differ(sides: tuple[LoadedModel, LoadedModel]) -> None:
    ours, theirs = (side.model for side in sides)
    norms = changes(ours, theirs)
    name = next(n for n, norm in norms.items() if norm)
    made = []
    for seed, draw in ((0, 0), (0, 0), (0, 1), (1, 0)):
        perturb(ours, theirs, norms, seed, draw)
        made.append(theirs.get_parameter(name).clone())
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[3])


def evidence_of(
    folders: tuple[Path, Path], paths: tuple[Path, Path], prompts: PromptSet, draws: int
) -> tuple[NoiseDraw, ...]:
    sides = [resolve_reference(os.fspath(folder), roots=None) for folder in folders]
    return gather_evidence(
        sides[0],
        sides[1],
        reference_capture=paths[0],
        candidate_capture=paths[1],
        prompts=prompts,
        profile=MeasurementProfile(**KNOBS, noise_draws=draws),
    ).noise


def test_noise_is_measured_as_a_trace_is(tiny: Tiny, few: PromptSet, traced: Traced, tmp_path: Path) -> None:
    """A candidate whose change is rounding-small: the noise model is then the reference, and so are its curves."""
    import shutil

    from safetensors.torch import load_file, save_file

    near = tmp_path / "near"
    shutil.copytree(tiny("llama"), near)
    weights = load_file(near / "model.safetensors")
    name = next(n for n in weights if "layers.2" in n and "mlp" in n)
    weights[name][0, 0] = torch.nextafter(weights[name][0, 0], torch.tensor(9.0))
    save_file(weights, near / "model.safetensors", metadata={"format": "pt"})
    (trace, path), (_, other) = traced(tiny("llama"), few), traced(near, few)
    (draw,) = evidence_of((tiny("llama"), near), (path, other), few, 1)
    capture = load_capture(path).all
    # The noise moves a few weights by less than an ulp of the largest: curves agree to float32 rounding.
    np.testing.assert_allclose(draw.alpha, capture.alpha, atol=1e-5)
    np.testing.assert_allclose(draw.transport[:, 1:], capture.transport[:, 1:], atol=1e-5)
    assert trace.layers[-1].positions["all"].transport == pytest.approx(draw.transport[:, -1].mean(), abs=1e-5)


def test_equal_sides_have_no_noise_to_match(tiny: Tiny, few: PromptSet, traced: Traced) -> None:
    _, path = traced(tiny("llama"), few)
    assert evidence_of((tiny("llama"), tiny("llama")), (path, path), few, 2) == ()


def test_noise_of_a_fine_tune_differs_from_the_reference(tiny: Tiny, few: PromptSet, traced: Traced) -> None:
    (_, path), (_, other) = traced(tiny("llama"), few), traced(tiny("llama", seed=1), few)
    first, second = evidence_of((tiny("llama"), tiny("llama", seed=1)), (path, other), few, 2)
    reference = load_capture(path).all.transport
    assert np.abs(first.transport - reference)[:, 1:].mean() > 1e-3
    assert np.abs(first.transport - second.transport)[:, 1:].mean() > 1e-3
