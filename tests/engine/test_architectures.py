"""One battery for every architecture; no name list in the engine, so none may be special here."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.pytorch_utils import Conv1D

from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.trace import Trace
from spinal.engine.anatomy import find_anatomy, residual_of
from spinal.engine.api import gather_evidence, measure
from spinal.engine.load import load
from spinal.engine.session import LENGTHS_APART
from spinal.engine.tokens import make_batches, tokenize
from spinal.engine.transport import Readout
from spinal.engine.walk import prepare, run_block
from spinal.errors import ArchitectureUnsupported
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from tests.engine.architectures import build
from tests.engine.conftest import KNOBS
from tests.engine.families import BLOCKS, FAMILIES, KINDS, MORE, REFUSED, TOWERS

Traced = Callable[..., tuple[Trace, Path]]
Tiny = Callable[..., Path]
every = pytest.mark.parametrize("family", [*FAMILIES, *KINDS])
CHOSEN = [*KINDS, *(f"tower:{name}" for name in ("gemma3", "mistral3", "llama4", "qwen2_5_vl", "qwen3_5", "idefics3"))]
"""Stand for what the tables of ``MORE`` and ``TOWERS`` hold; every one of ``FAMILIES`` is streamed in test_stream."""
chosen = pytest.mark.parametrize("family", CHOSEN)
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
        logits = loaded.model(input_ids=ids, use_cache=False).logits[0].float()
        hook.remove()
        found = readout.logits(readout.normed(last[0][0]), 0, anatomy.vocabulary)
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)


@pytest.fixture
def fewer(few: PromptSet) -> PromptSet:
    return replace(few, prompts=few.prompts[:6], continuations=few.continuations[:6])


@pytest.mark.parametrize("family", MORE)
def test_every_other_causal_family_has_a_depth_trace(
    family: str, traced: Traced, fewer: PromptSet, tmp_path: Path
) -> None:
    trace, _ = traced(build(family, tmp_path / "model"), fewer)
    assert trace.parity_rad < 1e-4
    assert trace.model.n_layers == BLOCKS


@pytest.mark.parametrize("family", TOWERS)
def test_the_text_tower_of_a_multimodal_checkpoint_is_measured_and_named_so(
    family: str, traced: Traced, fewer: PromptSet, tmp_path: Path
) -> None:
    trace, _ = traced(build(f"tower:{family}", tmp_path / "model"), fewer)
    assert trace.parity_rad < 1e-4
    assert trace.model.n_layers == BLOCKS
    named = f"text tower of {trace.model.architecture} measured; the "
    [remark] = [warning for warning in trace.warnings if warning.startswith(named)]
    assert remark.endswith(("part was not looked at", "parts were not looked at"))


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_without_a_depth_trace_is_refused_for_what_it_does(
    family: str, traced: Traced, fewer: PromptSet, tmp_path: Path
) -> None:
    folder = build(f"refused:{family}", tmp_path / "model")
    with pytest.raises(ArchitectureUnsupported, match=REFUSED[family][1]):
        traced(folder, fewer)


def test_a_checkpoint_that_names_no_class_is_measured(
    tiny: Tiny, traced: Traced, fewer: PromptSet, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny("qwen3"), tmp_path / "nameless")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    nameless, named = traced(folder, fewer)[0], traced(tiny("qwen3"), fewer)[0]
    assert nameless.model.architecture == "Qwen3ForCausalLM"
    assert nameless.layers == named.layers


@pytest.mark.parametrize("family", [family for family in CHOSEN if family != "xlstm"])  # it fails on 16-bit weights
def test_what_stands_for_a_table_passes_the_gate_in_16_bits(
    family: str, traced: Traced, fewer: PromptSet, tmp_path: Path
) -> None:
    trace, _ = traced(build(family, tmp_path / "model", dtype=torch.bfloat16), fewer, dtype="checkpoint")
    assert trace.engine.dtype == "bfloat16"
    assert trace.parity_rad < 1e-3


@chosen
def test_what_stands_for_a_table_gives_the_same_bits_streamed(
    family: str, tiny: Tiny, fewer: PromptSet, tmp_path: Path
) -> None:
    checkpoint = resolve_reference(os.fspath(tiny(family)), roots=None)
    whole, streamed = (
        measure(checkpoint, fewer, MeasurementProfile(**KNOBS), capture_path=tmp_path / "c", stream=stream)
        for stream in (False, True)
    )
    assert whole.model_dump(exclude={"provenance"}) == streamed.model_dump(exclude={"provenance"})


@chosen
def test_an_adapter_over_what_stands_for_a_table_is_pefts_own_model(
    family: str, tiny: Tiny, traced: Traced, fewer: PromptSet, tmp_path: Path
) -> None:
    profile = MeasurementProfile(**KNOBS)
    base = load(resolve_reference(os.fspath(tiny(family)), roots=None), profile, "cpu").model
    blocks = find_anatomy(base, BLOCKS, "x").blocks
    names = {module: name for name, module in base.named_modules()}
    linear = [names[part] for part in blocks[-1].modules() if type(part) in (torch.nn.Linear, Conv1D)]
    config = LoraConfig(r=2, target_modules=linear, task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = get_peft_model(base, config)
    adapted.save_pretrained(os.fspath(tmp_path / "adapter"))
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    described["base_model_name_or_path"] = os.fspath(tiny(family))
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(described))
    trace, _ = traced(tmp_path / "adapter", fewer)
    assert trace.parity_rad < 1e-4
    merged = load(resolve_reference(os.fspath(tmp_path / "adapter"), roots=None), profile, "cpu").model
    ids = torch.arange(3, 20).unsqueeze(0)
    with torch.inference_mode():
        ours, theirs = (model.eval()(input_ids=ids, use_cache=False).logits for model in (merged, adapted))
    # Merged weights are rounded once more than factors applied one after the other.
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_rows_do_not_depend_on_the_batch_where_frequencies_follow_its_length(
    traced: Traced, few: PromptSet, tmp_path: Path
) -> None:
    """Prompts beyond the context that the model was trained with, which its scaling stretches fourfold."""
    folder = build("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    stretched = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    config |= {"max_position_embeddings": 16, "rope_parameters": stretched}
    (folder / "config.json").write_text(json.dumps(config))
    together, alone = traced(folder, few)[0], traced(folder, few, batch_size=1)[0]
    np.testing.assert_allclose(values(alone, "all"), values(together, "all"), atol=SEPARATED)
    assert LENGTHS_APART in together.warnings
