"""Whole traces against the same quantities computed in float64 and mpmath by code that shares nothing with the engine.

The engine runs the blocks in float32 (residuals good to about 1e-6 of their size) and its lens in float32; 1e-5 on L,
entropy and alpha is what ``docs/method.md`` promises on top of that.
"""

import json
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pytest

from spinal.documents.capture import load_capture
from spinal.documents.trace import Trace
from spinal.prompts.sets import PromptSet
from tests.engine.float64_models import logits, residuals, softmax

FAMILIES = ("llama", "llama-tied", "qwen3", "gemma2", "cohere", "gpt2")
Traced = Callable[..., tuple[Trace, Path]]
Tiny = Callable[..., Path]
WINDOWS = {"bulk": (0.05, 0.30), "body": (0.10, 0.50), "wide": (0.10, 0.90)}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tiny: Tiny) -> Path:
    return tiny(request.param)


def encoded(folder: Path, prompts: PromptSet, keep: int) -> list[tuple[int, ...]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tuple(tokenizer.encode(text).ids[-keep:]) for text in prompts.prompts]


def tokens_known(folder: Path) -> int:
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(with_added_tokens=True))


@pytest.mark.parametrize("name", ["spinal/1", "spinal/2"])
def test_transport_and_entropy_of_every_layer(family: Path, name: str, few: PromptSet, traced: Traced) -> None:
    trace, _ = traced(family, few, lens_positions="full", name=name, greedy_prompts=0)
    known, steps, entropies, lasts = tokens_known(family), [], [], []
    for ids in encoded(family, few, 40):
        p = softmax(logits(family, residuals(family, ids)[:, 1:])[..., :known])
        overlap = np.sqrt(p[:-1] * p[1:]).sum(-1)
        length = 2.0 * np.arccos(np.minimum(overlap, 1.0))
        steps.append(length.mean(-1))
        lasts.append(length[:, -1])
        entropies.append(-(p * np.log(p)).sum(-1).mean(-1))
    for policy, expected in (("all", steps), ("last", lasts)):
        at = [layer.positions[policy] for layer in trace.layers[1:]]  # type: ignore[index]  # a policy
        found = np.array([position.transport for position in at], dtype=np.float64)
        np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-5)
    found = np.array([layer.positions["all"].entropy for layer in trace.layers])
    np.testing.assert_allclose(found, np.mean(entropies, axis=0), atol=1e-5)
    assert np.mean(steps) > 0.01, "the family must move something, or the test shows nothing"


def test_contraction_of_every_layer_and_window(family: Path, few: PromptSet, traced: Traced) -> None:
    trace, _ = traced(family, few)
    nodes = [residuals(family, ids)[:, 1:] for ids in encoded(family, few, 40)]
    stacked = {"all": np.concatenate(nodes, axis=1), "last": np.stack([node[:, -1] for node in nodes], axis=1)}
    checked = 0
    for policy, rows in stacked.items():
        for layer, here in zip(trace.layers, rows, strict=True):
            if np.ptp(here, axis=0).max() < 1e-9:
                # Node 0 at the last position: all these prompts end in the same token.
                fits = layer.positions[policy].contraction_windows.values()  # type: ignore[index]  # a policy
                assert {fit.reason for fit in fits} == {"constant"}
                continue
            sigma = np.linalg.svd(here - here.mean(axis=0), compute_uv=False)
            rank = min(len(here) - 1, here.shape[1], int((sigma > 1e-7 * sigma[0]).sum()))
            for window, (low, high) in WINDOWS.items():
                k = np.arange(int(np.ceil(round(low * rank, 9))), int(np.floor(round(high * rank, 9))) + 1)
                fit = layer.positions[policy].contraction_windows[window]  # type: ignore[index]  # a policy, a window
                if len(k) < 16:
                    assert fit.reason == "insufficient_rank"
                    continue
                assert (fit.k_min, fit.k_max) == (k[0], k[-1])
                expected = -np.polyfit(np.log(k), np.log(sigma[k - 1]), 1)[0]
                assert fit.alpha == pytest.approx(expected, abs=1e-5), (policy, layer.layer, window)
                checked += 1
    assert checked >= 2 * len(trace.layers)


def test_single_positions_against_forty_digits(family: Path, few: PromptSet, traced: Traced) -> None:
    """2 arccos BC with BC summed in mpmath, at the last position of a few prompts, for every step."""
    _, path = traced(family, few)
    capture, known = load_capture(path), tokens_known(family)
    with mpmath.workdps(40):
        for prompt in (0, 7):
            ids = encoded(family, few, 40)[prompt]
            z = logits(family, residuals(family, ids)[:, -1])[:, :known]
            exact = [[mpmath.exp(mpmath.mpf(float(v))) for v in row] for row in z]
            mass = [mpmath.fsum(row) for row in exact]
            for node in range(1, len(exact)):
                overlap = mpmath.fsum(
                    mpmath.sqrt(a * b) for a, b in zip(exact[node - 1], exact[node], strict=True)
                ) / mpmath.sqrt(mass[node - 1] * mass[node])
                expected = float(2 * mpmath.acos(overlap))
                assert capture.last.transport[prompt, node] == pytest.approx(expected, abs=1e-5)


def test_the_reference_is_the_model_that_was_built(family: Path) -> None:
    """The float64 forward against the model's own logits: what is compared above is one and the same model."""
    import torch
    import transformers

    ids = tuple(range(3, 33))
    model = transformers.AutoModelForCausalLM.from_pretrained(family, local_files_only=True)
    with torch.inference_mode():
        own = model(torch.tensor([ids])).logits[0].double().numpy()
    mine = logits(family, residuals(family, ids)[-1])
    assert json.loads((family / "config.json").read_text())["model_type"] in family.name
    np.testing.assert_allclose(mine, own, atol=1e-5 * np.abs(own).max())
