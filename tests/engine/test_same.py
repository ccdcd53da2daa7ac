"""Same means same: a block under another setting is another block, whatever its weights, and is run as such."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.reporter import Reporter
from spinal.engine.same import Same, identical_places
from spinal.engine.session import Session, Setup, open_pair
from spinal.engine.swap import SwapResult, block_swap
from spinal.engine.values import same_value
from spinal.engine.walk import prepare
from spinal.profile import MeasurementProfile
from spinal.progress import ignore_progress, never_cancelled
from spinal.prompts.sets import PromptSet

Tiny = Callable[..., Path]
PROMPTS = PromptSet(
    tuple(f"Human: how do I plant tree number {n} in a very small garden?" for n in range(4)), (None,) * 4
)
BLOCKS = 3

IN_BLOCKS: list[tuple[str, str, Any]] = [
    ("llama", "rope_parameters.rope_theta", 500.0),
    ("llama", "rope_parameters", {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
    ("llama", "hidden_act", "relu"),
    ("llama", "rms_norm_eps", 1e-2),
    ("mistral", "sliding_window", 4),
    ("mixtral", "num_experts_per_tok", 1),
    ("qwen3", "rope_parameters.rope_theta", 500.0),
    ("gemma2", "attn_logit_softcapping", 0.01),
    ("gemma2", "query_pre_attn_scalar", 4),
    ("gemma2", "sliding_window", 4),
    ("gemma2", "hidden_activation", "silu"),
    ("gemma3", "layer_types", ["sliding_attention", "full_attention", "full_attention"]),
    ("granite", "residual_multiplier", 0.25),
    ("granite", "attention_multiplier", 0.05),
    ("gpt2", "activation_function", "relu"),
    ("gpt2", "layer_norm_epsilon", 1e-2),
    ("gpt2", "scale_attn_by_inverse_layer_idx", True),
    ("gpt_neox", "use_parallel_residual", False),
    ("gpt_neox", "rope_parameters.partial_rotary_factor", 0.5),
    ("gpt_oss", "num_experts_per_tok", 1),
    ("deepseek_v3", "routed_scaling_factor", 1.0),
    ("deepseek_v3", "norm_topk_prob", False),
    ("mamba", "hidden_act", "relu"),
    ("falcon", "alibi", True),
]
ELSEWHERE: list[tuple[str, str, Any]] = [
    ("gemma2", "final_logit_softcapping", 2.0),
    ("granite", "embedding_multiplier", 3.0),
    ("granite", "logits_scaling", 2.0),
    ("cohere", "logit_scale", 0.5),
]
"""Of embeddings and read-outs: no block computes anything else."""
BOOKKEEPING: list[tuple[str, str, Any]] = [
    ("llama", "use_cache", False),
    ("llama", "initializer_range", 0.5),
    ("llama", "attention_dropout", 0.3),
    ("llama", "eos_token_id", 7),
    ("llama", "transformers_version", "4.1.0"),
    ("gpt2", "resid_pdrop", 0.3),
    ("mixtral", "router_aux_loss_coef", 0.5),
]


def with_setting(folder: Path, target: Path, key: str, value: Any) -> Path:
    """A copy of a checkpoint with one member of its configuration set, an inner one with dots."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    config = json.loads(path.read_text())
    *inside, name = key.split(".")
    holder = config
    for part in inside:
        holder = holder[part]
    assert holder.get(name) != value
    holder[name] = value
    path.write_text(json.dumps(config))
    return target


def with_weights(folder: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """A copy of a checkpoint with every tensor passed through ``change``."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    save_file(
        {n: change(n, t).contiguous() for n, t in weights.items()}, target / "model.safetensors", {"format": "pt"}
    )
    return target


def opened(reference: Path, candidate: Path, *, stream: bool = False, **knobs: Any) -> tuple[Session, Session]:
    reporter = Reporter(ignore_progress, never_cancelled)
    profile = MeasurementProfile(**({"max_tokens": 40, "lens_positions": 4, "swap_prompts": 4} | knobs))
    setup = Setup(PROMPTS, profile, 4, "cpu", stream, reporter)
    mine, other = (resolve_reference(str(folder), roots=None) for folder in (reference, candidate))
    return open_pair(mine, other, setup)


def told(reference: Path, candidate: Path, **knobs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks and places that are the same, and rho (Q, D)."""
    with torch.inference_mode():
        ours, theirs = opened(reference, candidate, **knobs)
        prepared = [prepare(side.anatomy, side.batches(), side.source) for side in (ours, theirs)]
        same = Same(ours, theirs, *prepared).settled()
        blocks = np.array([same.block(index) for index in range(same.depth)])
        places = identical_places(ours, theirs, *prepared)
        swapped = block_swap(ours, theirs, (0.0, 1.0))
    np.testing.assert_array_equal(swapped.identical, blocks)
    return blocks, places, swapped.rho


@pytest.mark.parametrize(("family", "key", "value"), IN_BLOCKS)
def test_a_block_under_another_setting_is_another_block(
    family: str, key: str, value: Any, tiny: Tiny, tmp_path: Path
) -> None:
    blocks, places, rho = told(tiny(family), with_setting(tiny(family), tmp_path / "other", key, value))
    assert not blocks.all()
    assert (rho[:, blocks] == 0.0).all()
    # A setting may be the same for some prompts and some blocks; where one is not, it moves what the block computes.
    assert (rho[:, ~blocks].max(axis=0) > 1e-4).any()
    assert places.tolist() == [True] * (BLOCKS + 2) + [False], "all tensors are the same, and the configuration is not"


@pytest.mark.parametrize(("family", "key", "value"), ELSEWHERE)
def test_a_setting_of_embeddings_or_read_out_is_the_configuration_s(
    family: str, key: str, value: Any, tiny: Tiny, tmp_path: Path
) -> None:
    blocks, places, rho = told(tiny(family), with_setting(tiny(family), tmp_path / "other", key, value))
    assert blocks.all()
    assert (rho == 0.0).all()
    assert places.tolist() == [True] * (BLOCKS + 2) + [False]


@pytest.mark.parametrize(("family", "key", "value"), BOOKKEEPING)
def test_what_computes_nothing_makes_nothing_another(
    family: str, key: str, value: Any, tiny: Tiny, tmp_path: Path
) -> None:
    blocks, places, rho = told(tiny(family), with_setting(tiny(family), tmp_path / "other", key, value))
    assert blocks.all()
    assert (rho == 0.0).all()
    assert places.tolist() == [True] * (BLOCKS + 2)


def test_only_what_holds_other_tensors_is_another_place(tiny: Tiny, tmp_path: Path) -> None:
    """One tensor of one place is moved by an ulp or so: that place is another one, and no other place is."""
    moved = {
        "model.embed_tokens.weight": 0,
        "model.layers.1.self_attn.q_proj.weight": 2,
        "model.layers.2.input_layernorm.weight": 3,
        "model.norm.weight": 4,
        "lm_head.weight": 4,
    }
    for number, (name, place) in enumerate(moved.items()):

        def change(each: str, tensor: torch.Tensor, name: str = name) -> torch.Tensor:
            return tensor * (1 + 1e-6) if each == name else tensor

        _, places, _ = told(tiny("llama"), with_weights(tiny("llama"), tmp_path / str(number), change))
        assert np.flatnonzero(~places).tolist() == [place], name


def test_streamed_blocks_are_told_like_loaded_ones(tiny: Tiny, tmp_path: Path) -> None:
    other = with_setting(tiny("llama"), tmp_path / "other", "rms_norm_eps", 1e-2)
    found = []
    for stream in (False, True):
        with torch.inference_mode():
            ours, theirs = opened(tiny("llama"), other, stream=stream)
            assert (ours.loaded.store is not None) == stream
            prepared = [prepare(side.anatomy, side.batches(), side.source) for side in (ours, theirs)]
            found.append(identical_places(ours, theirs, *prepared).tolist())
    assert found[0] == found[1] == [True] * (BLOCKS + 2) + [False]


def test_the_candidate_s_block_is_called_as_the_candidate_calls_it(tiny: Tiny, tmp_path: Path) -> None:
    """With equal weights and another rotary base, the swapped block at node 1 is the candidate's own first block: both
    sides embed alike."""
    other = with_setting(tiny("llama"), tmp_path / "other", "rope_parameters.rope_theta", 500.0)
    with torch.inference_mode():
        ours, theirs = opened(tiny("llama"), other)
        rho = block_swap(ours, theirs, (0.0, 1.0)).rho
        ids = [torch.tensor([tokens]) for tokens in ours.tokens.ids]
        for prompt, tokens in enumerate(ids):
            own = [side.loaded.model(tokens, output_hidden_states=True).hidden_states for side in (ours, theirs)]
            moved = (own[1][1] - own[0][1]).double().norm(dim=-1)
            update = (own[0][1] - own[0][0]).double().norm(dim=-1)
            # Batching moves a float32 residual by a rounding.
            assert rho[prompt, 0] == pytest.approx(float((moved / update)[0, 1:].mean()), rel=1e-4)


def test_a_model_is_the_same_as_itself_without_a_look(tiny: Tiny) -> None:
    with torch.inference_mode():
        ours, theirs = opened(tiny("gemma2"), tiny("gemma2"))
        prepared = [prepare(side.anatomy, side.batches(), side.source) for side in (ours, theirs)]
        same = Same(ours, theirs, *prepared).settled()
    assert same.places().tolist() == [True] * (BLOCKS + 2)


def test_streamed_blocks_of_other_weights_and_settings_are_told_while_they_are_in_memory(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Whether the configurations differ in what they compute is told by running blocks, which a stream lets go of."""
    moved = with_weights(tiny("llama"), tmp_path / "moved", lambda name, t: t * 1.01 if ".layers." in name else t)
    # Keys that only say something of blocks or of nothing: neither embeddings nor read-outs settle the question.
    for number, (key, value) in enumerate((("hidden_act", "relu"), ("attention_bias_note", "x"))):
        other = tmp_path / f"other-{number}"
        shutil.copytree(moved, other)
        config = json.loads((other / "config.json").read_text()) | {key: value}
        (other / "config.json").write_text(json.dumps(config))
        whole, streamed = (swapped(tiny("llama"), other, stream=stream) for stream in (False, True))
        assert whole.places.tolist() == streamed.places.tolist()
        np.testing.assert_array_equal(whole.rho, streamed.rho)


def test_arrays_that_a_module_carries_are_compared_by_what_they_hold() -> None:
    """``==`` of arrays is no yes or no."""
    assert same_value({"slopes": np.arange(3.0)}, {"slopes": np.arange(3.0)})
    for other in (np.arange(1.0, 4.0), np.arange(2.0), np.arange(3), [0.0, 1.0, 2.0]):
        assert not same_value({"slopes": np.arange(3.0)}, {"slopes": other})


def swapped(reference: Path, candidate: Path, **knobs: Any) -> SwapResult:
    with torch.inference_mode():
        return block_swap(*opened(reference, candidate, **knobs), (0.0, 1.0))
