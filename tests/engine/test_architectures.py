"""One battery for every architecture; no name list in the engine, so none may be special here."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.trace import Trace
from spinal.engine.anatomy import find_anatomy, residual_of
from spinal.engine.api import gather_evidence
from spinal.engine.load import load
from spinal.engine.tokens import make_batches, tokenize
from spinal.engine.transport import Readout
from spinal.engine.walk import prepare, run_block
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from tests.engine.conftest import KNOBS
from tests.engine.families import BLOCKS, FAMILIES

Traced = Callable[..., tuple[Trace, Path]]
Tiny = Callable[..., Path]
every = pytest.mark.parametrize("family", FAMILIES)
SEPARATED = 2e-4
"""float32 sums taken in another order (batching, padding) move L and entropy by less than this, in radians and nats."""


def values(trace: Trace, policy: str) -> np.ndarray:
    """(N, 2) transport (0 at node 0) and entropy."""
    at = [layer.positions[policy] for layer in trace.layers]  # type: ignore[index]  # one of the literal's members
    return np.array([[position.transport or 0.0, position.entropy] for position in at])


@every
def test_the_lens_at_the_last_node_is_the_models_own_output(
    family: str, tiny: Tiny, traced: Traced, few: PromptSet
) -> None:
    trace, _ = traced(tiny(family), few)
    # The gate's tolerance is 1e-3; what is left here is float32 rounding of the head alone.
    assert trace.parity_rad < 1e-4
    assert trace.model.n_layers == BLOCKS
    assert [layer.positions["all"].argmax_agreement for layer in trace.layers][-1] == 1.0
    for layer in trace.layers[1:]:
        assert 0.0 < (layer.positions["all"].transport or 0.0) <= np.pi


@every
def test_batching_padding_and_the_order_of_prompts_do_not_matter(
    family: str, tiny: Tiny, traced: Traced, few: PromptSet
) -> None:
    together, _ = traced(tiny(family), few)
    alone, _ = traced(tiny(family), few, batch_size=1)
    shuffled = replace(few, prompts=few.prompts[::-1], continuations=few.continuations[::-1])
    reordered, _ = traced(tiny(family), shuffled)
    for policy in ("last", "all"):
        np.testing.assert_allclose(values(alone, policy), values(together, policy), atol=SEPARATED)
        np.testing.assert_allclose(values(reordered, policy), values(together, policy), atol=SEPARATED)


@every
def test_walking_block_by_block_is_the_forward_pass_bit_for_bit(family: str, tiny: Tiny, few: PromptSet) -> None:
    profile = MeasurementProfile(**KNOBS)
    checkpoint = resolve_reference(os.fspath(tiny(family)), roots=None)
    loaded = load(checkpoint, profile, "cpu")
    anatomy = find_anatomy(loaded.model, BLOCKS, "x")
    [batch, *_] = make_batches(tokenize(loaded, few, profile).ids, 8, loaded.device)
    seen: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _m, _a, output: seen.append(residual_of(output).clone()))
        for block in anatomy.blocks
    ]
    with torch.inference_mode():
        anatomy.core(input_ids=batch.input_ids, use_cache=False)
        for hook in hooks:
            hook.remove()
        [prepared] = prepare(anatomy, [batch], "x")
        hidden = prepared.embedded
        for index in range(BLOCKS):
            hidden = run_block(anatomy, index, hidden, prepared.calls[index])
            assert torch.equal(hidden, seen[index]), f"block {index + 1}"


@every
def test_a_model_against_itself_differs_nowhere(family: str, tiny: Tiny, traced: Traced, few: PromptSet) -> None:
    folder = tiny(family)
    _, path = traced(folder, few)
    side = resolve_reference(os.fspath(folder), roots=None)
    evidence = gather_evidence(
        side, side, reference_capture=path, candidate_capture=path, prompts=few, profile=MeasurementProfile(**KNOBS),
        device="cpu",
    )  # fmt: skip
    for name in ("block_swap", "block_swap_transport", "weight_change"):
        assert not np.any(getattr(evidence, name)), name
    for policy in ("last", "all"):
        assert not np.any(evidence.function_gap[policy])
        assert not np.any(evidence.hidden_change[policy])
    assert not evidence.readout_moved


@every
def test_logits_of_the_readout_are_the_models_logits(family: str, tiny: Tiny, few: PromptSet) -> None:
    profile = MeasurementProfile(**KNOBS)
    loaded = load(resolve_reference(os.fspath(tiny(family)), roots=None), profile, "cpu")
    anatomy = find_anatomy(loaded.model, BLOCKS, "x")
    readout = Readout(anatomy, anatomy.vocabulary)
    ids = torch.tensor([tokenize(loaded, few, profile).ids[0]])
    last: list[torch.Tensor] = []
    hook = anatomy.blocks[-1].register_forward_hook(lambda _m, _a, output: last.append(residual_of(output)))
    with torch.inference_mode():
        logits = loaded.model(input_ids=ids).logits[0].float()
        hook.remove()
        found = readout.logits(readout.normed(last[0][0]), 0, anatomy.vocabulary)
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
