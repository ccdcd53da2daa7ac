"""Lens and spectrum against closed forms and float64 references, and models whose trace is known in advance."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.capture import load_capture
from spinal.documents.trace import Trace
from spinal.engine.anatomy import find_anatomy
from spinal.engine.load import load
from spinal.engine.transport import Readout, read_lens
from spinal.errors import Cancelled, ContextExceeded, NonFiniteWeights, WeightsCorrupt
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from tests.engine.conftest import KNOBS

Traced = Callable[..., tuple[Trace, Path]]
Tiny = Callable[..., Path]


@pytest.fixture(scope="module")
def readout(tiny: Tiny) -> Readout:
    loaded = load(resolve_reference(os.fspath(tiny("qwen2")), roots=None), MeasurementProfile(**KNOBS), "cpu")
    anatomy = find_anatomy(loaded.model, 3, "x")
    return Readout(anatomy, anatomy.vocabulary)


def reference(readout: Readout, rows: torch.Tensor) -> np.ndarray:
    """(S, K, V) probabilities, softmax in float64 of the full row of logits."""
    with torch.inference_mode():
        logits = torch.stack([readout.logits(readout.normed(state), 0, readout.vocabulary) for state in rows])
    return torch.softmax(logits.double(), dim=-1).numpy()


def test_distance_entropy_and_maximum_equal_the_full_softmax_in_float64(readout: Readout) -> None:
    rows = torch.randn(4, 70, 64, generator=torch.Generator().manual_seed(1))
    rows[1] = rows[0] + 1e-3 * rows[1]
    pairs = [(0, 1), (1, 2), (2, 3), (0, 3)]
    with torch.inference_mode():
        found = read_lens([(readout, rows)], pairs)
    p = reference(readout, rows)
    overlap = np.array([np.sqrt(p[i] * p[j]).sum(-1) for i, j in pairs])
    np.testing.assert_allclose(found.distance[1:], 2 * np.arccos(np.clip(overlap[1:], 0, 1)), atol=2e-6)
    # Close distributions: arccos of a number near 1 loses half the digits, the chord does not.
    chord = np.sqrt(((np.sqrt(p[0]) - np.sqrt(p[1])) ** 2).sum(-1))
    np.testing.assert_allclose(found.distance[0], 4 * np.arcsin(chord / 2), rtol=2e-3, atol=1e-7)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(found.max_probability, p.max(-1), rtol=1e-5)
    assert (found.argmax == p.argmax(-1)).all()


def test_equal_rows_are_at_distance_exactly_zero(readout: Readout) -> None:
    rows = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(2)).repeat(2, 1, 1)
    with torch.inference_mode():
        assert not read_lens([(readout, rows)], [(0, 1)]).distance.any()


def test_disjoint_distributions_are_pi_apart(readout: Readout) -> None:
    rows = torch.zeros(2, 1, 64)
    rows[0, 0, 0], rows[1, 0, 1] = 1.0, 1.0

    class Sharp:
        vocabulary = 2
        anatomy = readout.anatomy

        def normed(self, given: torch.Tensor) -> torch.Tensor:
            return given.float()

        def logits(self, normed: torch.Tensor, start: int, stop: int) -> torch.Tensor:
            return (normed[..., :2] * 400.0)[..., start:stop]

    with torch.inference_mode():
        found = read_lens([(Sharp(), rows)], [(0, 1)])  # type: ignore[list-item]  # has all of a Readout that is read here
    assert found.distance.item() == pytest.approx(np.pi, abs=1e-6)
    np.testing.assert_allclose(found.entropy, 0.0, atol=1e-6)


def changed(folder: Path, target: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a checkpoint with edited tensors."""
    target.mkdir()
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def silence(block: int) -> Callable[[dict[str, torch.Tensor]], None]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if f"layers.{block}." in name and ("o_proj" in name or "down_proj" in name):
                tensors[name].zero_()

    return edit


def test_a_block_that_adds_nothing_moves_nothing(tiny: Tiny, traced: Traced, few: PromptSet, tmp_path: Path) -> None:
    folder = changed(tiny("llama"), tmp_path / "m", silence(1))
    trace, path = traced(folder, few)
    assert trace.layers[2].positions["all"].transport == 0.0
    assert trace.layers[2].positions["last"].transport == 0.0
    capture = load_capture(path)
    assert (capture.all.alpha[:, 2] == capture.all.alpha[:, 1]).all() or np.isnan(capture.all.alpha[:, 2]).all()
    assert (trace.layers[1].positions["all"].transport or 0.0) > 0.01


def test_the_spectrum_does_not_see_a_rotation_or_a_scale() -> None:
    from spinal.engine.contraction import node_spectrum, split_prompts

    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(400, 32, generator=generator) * torch.arange(1, 33) ** -0.7
    owner = torch.arange(400) // 10
    split = split_prompts(40, 16)
    rotation, _ = torch.linalg.qr(torch.randn(32, 32, generator=generator, dtype=torch.float64))
    profile = MeasurementProfile(min_window_ranks=4)
    base = node_spectrum(rows, owner, 40, split, profile)
    turned = node_spectrum((rows.double() @ rotation).float(), owner, 40, split, profile)
    scaled = node_spectrum(rows * 1000.0, owner, 40, split, profile)
    singular = np.linalg.svd((rows.double() - rows.double().mean(0)).numpy(), compute_uv=False)
    share = singular / singular.sum()
    assert base.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)
    for window, fit in base.fits.items():
        assert turned.fits[window].alpha == pytest.approx(fit.alpha, abs=1e-4), window
        assert scaled.fits[window].alpha == pytest.approx(fit.alpha, abs=1e-6), window


@pytest.mark.parametrize(("count", "width"), [(60, 24), (24, 60)])
def test_influences_are_those_of_the_singular_vectors_whichever_side_is_the_smaller(count: int, width: int) -> None:
    from spinal.analysis.contraction import alpha_influence, fit_windows
    from spinal.documents.editions import FORMER
    from spinal.engine.contraction import node_spectrum, split_prompts

    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(count, width, generator=generator, dtype=torch.float64) * torch.arange(1, width + 1) ** -0.7
    owner, split, profile = (
        torch.arange(count) // 3,
        split_prompts(count // 3, 4),
        MeasurementProfile(min_window_ranks=4),
    )
    found = node_spectrum(rows, owner, count // 3, split, profile)
    centred = (rows - rows.mean(0)).numpy()
    _, sigma, directions = np.linalg.svd(centred, full_matrices=False)
    rank = min(count - 1, width)
    energies = ((centred @ directions.T) ** 2).reshape(count // 3, 3, -1).sum(axis=1)
    for i, window in enumerate(("bulk", "body", "wide", "tail")):
        fit = fit_windows(sigma, rank, min_ranks=4)[window]
        expected = alpha_influence(energies, sigma**2, fit, rows=count)
        # Projections on directions of a spread below FLOAT32_SPREAD are taken in float32.
        assert found.replicates[i] == pytest.approx(expected, rel=1e-4, abs=1e-4), window
    assert found.kind == "influence"
    before = node_spectrum(rows, owner, count // 3, split, profile, FORMER)
    assert before.kind == ("influence" if count > width else "groups")
    assert not np.array_equal(before.replicates[:, :4], found.replicates[:, :4])


def test_a_measurement_is_the_same_twice_bit_for_bit(tiny: Tiny, traced: Traced, few: PromptSet) -> None:
    first, second = (traced(tiny("gemma2"), few) for _ in range(2))
    assert first[0].layers == second[0].layers
    mine, theirs = load_file(first[1]), load_file(second[1])
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name].float().numpy(), theirs[name].float().numpy(), err_msg=name)


def test_nan_weights_are_refused_by_name(tiny: Tiny, traced: Traced, few: PromptSet, tmp_path: Path) -> None:
    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")

    with pytest.raises(NonFiniteWeights, match="up_proj"):
        traced(changed(tiny("llama"), tmp_path / "m", poison), few)


def test_missing_tensors_are_never_made_up(tiny: Tiny, traced: Traced, few: PromptSet, tmp_path: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]

    with pytest.raises(WeightsCorrupt, match="missing"):
        traced(changed(tiny("llama"), tmp_path / "m", drop), few)


def test_prompts_longer_than_the_context_are_refused(tiny: Tiny, traced: Traced) -> None:
    with pytest.raises(ContextExceeded, match="128"):
        traced(tiny("llama"), PromptSet(("word " * 400, "two words"), (None, None)), max_tokens=512)


def test_cancelling_stops_between_layers_and_writes_nothing(tiny: Tiny, few: PromptSet, tmp_path: Path) -> None:
    from spinal.engine.api import measure
    from spinal.progress import Progress

    reports: list[Progress] = []
    path = tmp_path / "capture.safetensors"
    with pytest.raises(Cancelled):
        measure(
            resolve_reference(os.fspath(tiny("llama")), roots=None), few, MeasurementProfile(**KNOBS),
            capture_path=path, progress=reports.append,
            cancelled=lambda: any(report.phase == "walk" for report in reports),
        )  # fmt: skip
    assert not path.exists()
    assert reports[-1].fraction < 1.0
