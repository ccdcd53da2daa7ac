"""What must not change a trace, what must bound it, and closed forms (``docs/method.md``): each with its tolerance."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.capture import load_capture
from spinal.documents.trace import Trace
from spinal.engine import transport
from spinal.engine.api import gather_evidence
from spinal.engine.contraction import node_spectrum, split_prompts, window_alphas
from spinal.engine.load import load
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from tests.engine.architectures import build
from tests.engine.conftest import KNOBS
from tests.engine.families import FAMILIES

Traced = Callable[..., tuple[Trace, Path]]
Tiny = Callable[..., Path]
Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def changed(folder: Path, target: Path, change: Change) -> Path:
    """A copy of a checkpoint with its tensors (given and taken in float64) passed through ``change``."""
    shutil.copytree(folder, target)
    weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    saved = {name: tensor.float().contiguous() for name, tensor in change(weights).items()}
    save_file(saved, target / "model.safetensors", metadata={"format": "pt"})
    return target


def column(trace: Trace, member: str, policy: str = "all") -> np.ndarray:
    values = [getattr(layer.positions[policy], member) for layer in trace.layers]  # type: ignore[index]  # a policy
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def assert_same(one: Trace, other: Trace, *, transport: float, entropy: float, alpha: float) -> None:
    for policy in ("last", "all"):
        for member, tolerance in (("transport", transport), ("entropy", entropy), ("contraction", alpha)):
            mine, theirs = column(one, member, policy), column(other, member, policy)
            np.testing.assert_allclose(mine, theirs, atol=tolerance, err_msg=f"{member} {policy}")


def test_a_rotated_residual_basis_with_compensating_weights(
    tiny: Tiny, few: PromptSet, traced: Traced, tmp_path: Path
) -> None:
    """RMS norms of weight one commute with a rotation; the rounding of rotated float32 weights is what is left."""
    rotation, _ = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))

    def rotate(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        def one(name: str, tensor: torch.Tensor) -> torch.Tensor:
            if name.endswith("norm.weight"):
                assert bool((tensor == 1.0).all())
                return tensor
            writes = "o_proj" in name or "down_proj" in name
            return rotation.T @ tensor if writes else tensor @ rotation

        return {name: one(name, tensor) for name, tensor in weights.items()}

    base, _ = traced(tiny("llama"), few)
    turned, _ = traced(changed(tiny("llama"), tmp_path / "turned", rotate), few)
    assert_same(base, turned, transport=2e-5, entropy=5e-5, alpha=1e-5)


def test_a_permuted_vocabulary(tiny: Tiny, few: PromptSet, traced: Traced, tmp_path: Path) -> None:
    """The same rows of the head in another order (within the tokenizer's ids) give the same distances."""
    from tokenizers import Tokenizer

    known = Tokenizer.from_file(str(tiny("llama") / "tokenizer.json")).get_vocab_size(with_added_tokens=True)
    order = torch.randperm(known, generator=torch.Generator().manual_seed(0))

    def permute(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        head = weights["lm_head.weight"].clone()
        head[:known] = head[order]
        return weights | {"lm_head.weight": head}

    base, _ = traced(tiny("llama"), few)
    shuffled, _ = traced(changed(tiny("llama"), tmp_path / "shuffled", permute), few)
    assert_same(base, shuffled, transport=1e-5, entropy=1e-5, alpha=0.0)


@pytest.mark.parametrize(("vocabulary", "tokens"), [(64, 64), (1024, 7), (100_000, 1)])
def test_the_size_of_blocks(
    tiny: Tiny, few: PromptSet, traced: Traced, monkeypatch: pytest.MonkeyPatch, vocabulary: int, tokens: int
) -> None:
    base, _ = traced(tiny("gemma2"), few)
    monkeypatch.setattr(transport, "VOCABULARY_BLOCK", vocabulary)
    monkeypatch.setattr(transport, "TOKEN_BLOCK", tokens)
    other, _ = traced(tiny("gemma2"), few)
    assert_same(base, other, transport=1e-5, entropy=1e-5, alpha=0.0)


def test_steps_are_bounded_and_obey_the_triangle_inequality(tiny: Tiny, few: PromptSet, traced: Traced) -> None:
    """No step is longer than pi, and no path shorter than the distance of its ends (directness <= 1)."""
    for family in ("gemma2", "gpt2", "mamba"):
        _, path = traced(tiny(family), few)
        capture = load_capture(path)
        for policy in ("last", "all"):
            steps = capture.at(policy).transport[:, 1:]
            assert ((steps >= 0.0) & (steps <= np.pi)).all()
        assert (capture.directness <= 1.0 + 1e-6).all()


def test_the_gap_does_not_depend_on_which_side_is_the_reference(tiny: Tiny, few: PromptSet, traced: Traced) -> None:
    sides = [tiny("qwen2"), tiny("qwen2", seed=1)]
    captures = [traced(folder, few)[1] for folder in sides]
    found = []
    for first, second in ((0, 1), (1, 0)):
        evidence = gather_evidence(
            resolve_reference(os.fspath(sides[first]), roots=None),
            resolve_reference(os.fspath(sides[second]), roots=None),
            reference_capture=captures[first],
            candidate_capture=captures[second],
            prompts=few,
            profile=MeasurementProfile(**KNOBS),
        )
        found.append(evidence.function_gap["all"])
    # The states take other places in the products, which moves a logit by one rounding.
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert found[0].mean() > 0.01


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
def test_block_swap_equals_the_same_thing_done_by_hand(
    family: str, tiny: Tiny, few: PromptSet, traced: Traced, tmp_path: Path
) -> None:
    """Hooks on two ordinary forward passes, prompt by prompt, without padding: feed r_{l-1} of one to block l of the
    other. Float64 norms of float32 residuals; batching moves them by a rounding."""
    generator = torch.Generator().manual_seed(5)

    def disturb(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        noise = {n: torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in weights.items()}
        return {n: t + (0.01 * noise[n] if ".2." in n else 0.0) for n, t in weights.items()}

    sides = [tiny(family), changed(tiny(family), tmp_path / "other", disturb)]
    captures = [traced(folder, few)[1] for folder in sides]
    profile = MeasurementProfile(**KNOBS)
    checkpoints = [resolve_reference(os.fspath(folder), roots=None) for folder in sides]
    evidence = gather_evidence(
        *checkpoints, reference_capture=captures[0], candidate_capture=captures[1], prompts=few, profile=profile
    )
    found, swapped_prompts = evidence.block_swap, evidence.swap_prompts
    assert swapped_prompts is not None
    loaded = [load(checkpoint, profile, "cpu") for checkpoint in checkpoints]
    blocks = [next(m for m in one.model.modules() if isinstance(m, torch.nn.ModuleList)) for one in loaded]
    ids = loaded[0].tokenizer.encode([str(few.prompts[place]) for place in swapped_prompts], special=True)
    for prompt, tokens in enumerate(ids):
        given: list[torch.Tensor] = []
        ours: list[torch.Tensor] = []
        swapped: list[torch.Tensor] = []

        def first(output: object) -> torch.Tensor:
            return output[0] if isinstance(output, tuple) else output  # type: ignore[return-value]  # a residual

        def keep(_block: object, args: tuple, output: object, into: list, before: list) -> None:
            before.append(args[0])
            into.append(first(output))

        def feed(_block: object, args: tuple, at: list) -> tuple:
            return (given[len(at)], *args[1:])  # noqa: B023  run within the turn

        batch = torch.tensor([tokens[-40:]])
        hooks = [b.register_forward_hook(lambda m, a, o: keep(m, a, o, ours, given)) for b in blocks[0]]  # noqa: B023  run within the turn
        with torch.inference_mode():
            loaded[0].model(batch, use_cache=False)
            for hook in hooks:
                hook.remove()
            hooks = [b.register_forward_pre_hook(lambda m, a: feed(m, a, swapped)) for b in blocks[1]]  # noqa: B023  run within the turn
            hooks += [b.register_forward_hook(lambda m, a, o: keep(m, a, o, swapped, [])) for b in blocks[1]]  # noqa: B023  run within the turn
            loaded[1].model(batch, use_cache=False)
            for hook in hooks:
                hook.remove()
        for block in range(3):
            moved = (swapped[block] - ours[block]).double().norm(dim=-1)
            update = (ours[block] - given[block]).double().norm(dim=-1)
            expected = float((moved / update)[0, 1:].mean())
            assert found[prompt, block] == pytest.approx(expected, rel=1e-3, abs=1e-5), (prompt, block)
    assert (found[:, :2] == 0.0).all()
    assert (found[:, 2] > 0.01).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bf16_checkpoint_with_a_float32_lens(family: str, few: PromptSet, traced: Traced, tmp_path: Path) -> None:
    """The same weights run in bf16 and in float32: layer means differ by what bf16 residuals differ, and the gate is
    as narrow as in float32, because the model's own norm and head are redone in float32."""
    folder = build(family, tmp_path / "half", dtype=torch.bfloat16)
    (half, _), (full, _) = traced(folder, few, dtype="checkpoint"), traced(folder, few, dtype="float32")
    assert half.engine.dtype == "bfloat16"
    assert half.parity_rad < 1e-3
    np.testing.assert_allclose(column(half, "transport")[1:], column(full, "transport")[1:], atol=2e-2)
    np.testing.assert_allclose(column(half, "entropy"), column(full, "entropy"), atol=2e-2)


# --- spectra --------------------------------------------------------------------------------------------

SPECTRUM = MeasurementProfile()


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_an_exact_power_law_is_recovered_through_the_engine(exponent: float) -> None:
    """Rows U diag(k^-a) V^T with centred orthonormal U: alpha is a in every window, up to float64 rounding."""
    generator = torch.Generator().manual_seed(1)
    width, count = 96, 400
    raw = torch.randn(count, width, dtype=torch.float64, generator=generator)
    left, _ = torch.linalg.qr(raw - raw.mean(0))
    right, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))
    rows = left * torch.arange(1, width + 1, dtype=torch.float64) ** -exponent @ right
    np.testing.assert_allclose(window_alphas(rows, SPECTRUM), exponent, atol=1e-7)


def test_row_order_scale_and_a_common_offset_leave_the_spectrum() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(800, 64, dtype=torch.float64, generator=generator) * torch.arange(1, 65) ** -0.7
    order = torch.randperm(800, generator=generator)
    prompt = torch.arange(800) % 40
    split = split_prompts(40, 16)
    base = node_spectrum(rows, prompt, 40, split, SPECTRUM)
    for other in (
        node_spectrum(rows[order], prompt[order], 40, split, SPECTRUM),
        node_spectrum(rows * 37.0, prompt, 40, split, SPECTRUM),
        node_spectrum(rows + 50.0 * rows[0], prompt, 40, split, SPECTRUM),
    ):
        for window, fit in base.fits.items():
            assert other.fits[window].alpha == pytest.approx(fit.alpha, abs=1e-10)
        # Influences come from a float32 projection where the spectrum is no wider than 1e4: an error bar, not a value.
        np.testing.assert_allclose(other.replicates, base.replicates, atol=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_a_sampled_power_law_is_within_two_percent_with_eight_rows_a_dimension(exponent: float) -> None:
    generator = torch.Generator().manual_seed(3)
    width = 256
    scale = torch.arange(1, width + 1, dtype=torch.float64) ** -exponent
    rows = torch.randn(8 * width, width, dtype=torch.float64, generator=generator) * scale
    body = float(window_alphas(rows, SPECTRUM)[1])
    assert body == pytest.approx(exponent, rel=0.02)


# --- distances ------------------------------------------------------------------------------------------


class Given:
    """A read-out whose logits are the rows themselves."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def normed(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.float()

    def logits(self, normed: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return normed[:, start:stop].clone()


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    states = torch.stack([first, second]).unsqueeze(1)
    with torch.inference_mode():
        return float(transport.read_lens([(Given(first.numel()), states)], [(0, 1)]).distance[0, 0])  # type: ignore[list-item]  # a stand-in


@pytest.mark.parametrize("p", [0.5, 0.1, 1e-3])
@pytest.mark.parametrize("q", [0.4999, 0.3])
def test_two_point_distributions_have_their_closed_form(p: float, q: float) -> None:
    """L = 2 arccos(sqrt(pq) + sqrt((1-p)(1-q))) = 2 |arcsin sqrt p - arcsin sqrt q|."""
    found = distance(torch.tensor([p, 1 - p]).log(), torch.tensor([q, 1 - q]).log())
    assert found == pytest.approx(2 * abs(np.arcsin(p**0.5) - np.arcsin(q**0.5)), abs=1e-6)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_gaussian_logits_have_their_closed_form(correlation: float) -> None:
    """z, z' normal with variance s^2 and that correlation, many ids: BC = exp(-s^2 (1 - rho) / 4)."""
    generator, size, s = torch.Generator().manual_seed(7), 1 << 20, 1.0
    z = torch.randn(2, size, dtype=torch.float64, generator=generator)
    other = correlation * z[0] + (1 - correlation**2) ** 0.5 * z[1]
    expected = 2 * np.arccos(np.exp(-(s**2) * (1 - correlation) / 4))
    # A million draws: the mean of exp(z) scatters by 1.3e-3.
    assert distance((s * z[0]).float(), (s * other).float()) == pytest.approx(expected, abs=3e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(-80, 80), st.floats(0.01, 30.0), st.permutations(range(6)))
def test_blocks_merge_in_any_order(seed: int, shift: float, spread: float, order: list[int]) -> None:
    """Six vocabulary blocks absorbed in any order give the distance of the whole, however maxima move."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, 3, 96, generator=generator)
    logits[1] += shift
    logits[:, :, 48:] += 3.0 * spread
    results = []
    for turn in (range(6), order):
        running = transport._Running(2, 3, [(0, 1)], torch.device("cpu"))
        for block in turn:
            running.absorb(logits[:, :, 16 * block : 16 * block + 16].clone(), 16 * block)
        results.append(running.distance())
    p = torch.softmax(logits.double(), -1)
    chord = (p[0].sqrt() - p[1].sqrt()).square().sum(-1).sqrt()
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(results[0][0], 4 * torch.asin(chord / 2), atol=1e-5, rtol=0)
