"""Probes of an opened model: rows that depend on what follows them, on what is beside them, or on the length."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
import transformers
from torch import nn

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine import probes
from spinal.engine.anatomy import find_anatomy
from spinal.engine.load import LoadedModel, load
from spinal.engine.stream import BlockStore
from spinal.engine.tokenizer import Tokenizer
from spinal.errors import ArchitectureUnsupported
from spinal.profile import MeasurementProfile
from tests.engine.architectures import build, config_of, sized
from tests.engine.families import BLOCKS, SIZES

PROMPTS = [list(range(3, 3 + length)) for length in (7, 40, 100)]
TWO_SIDED: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {"is_decoder": False}),
    "megatron-bert": ("megatron-bert", {"is_decoder": False}),
    "electra": ("electra", {"is_decoder": False}),
    "roformer": ("roformer", {"is_decoder": False}),
    "big_bird": ("big_bird", {"is_decoder": False}),
    "gemma3": ("gemma3_text", {"use_bidirectional_attention": True}),
    "llama": ("llama", {"is_causal": False}),
    "qwen3": ("qwen3", {"is_causal": False}),
}
Change = Callable[[torch.Tensor], torch.Tensor]


def made(model_type: str, members: dict[str, Any], dtype: torch.dtype) -> transformers.PreTrainedModel:
    small = sized(transformers.CONFIG_MAPPING[model_type], SIZES) | members
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(model_type, **small))
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            nn.init.normal_(parameter, 0.0, 0.08)
    return model.to(dtype).eval()


def probed(model: transformers.PreTrainedModel) -> bool:
    loaded = LoadedModel(Checkpoint(Path(), "x", {}), model, cast(Tokenizer, None), torch.device("cpu"))
    with torch.inference_mode():
        return probes.check_probes(loaded, find_anatomy(model, BLOCKS, "x"), PROMPTS, follows_length=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", TWO_SIDED)
def test_a_model_that_attends_to_later_tokens_is_refused(family: str, dtype: torch.dtype) -> None:
    with pytest.raises(ArchitectureUnsupported, match=r"attends to later tokens: with .*rows move"):
        probed(made(*TWO_SIDED[family], dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "mamba", "bloom"])
def test_no_row_of_a_dense_causal_model_moves_at_all(
    family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens are changed, not counted: the same products are taken of the same rows."""
    seen: list[float] = []
    judge = probes._judge

    def judged(variants: Any, *args: Any) -> bool:
        seen.extend(variant.moved for variant in variants[:3])
        return judge(variants, *args)

    monkeypatch.setattr(probes, "_judge", judged)
    assert not probed(made(family, {}, dtype))
    assert seen == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "granitemoeshared", "minimax", "solar_open"])
def test_a_mixture_of_experts_may_round_otherwise(family: str, dtype: torch.dtype) -> None:
    assert not probed(made(family, {}, dtype))


def later(hidden: torch.Tensor) -> torch.Tensor:
    """Every row sees the mean of all."""
    return hidden + 0.05 * hidden.mean(dim=1, keepdim=True)


def next_one(hidden: torch.Tensor) -> torch.Tensor:
    """Every row sees the one after it."""
    return hidden + 0.05 * hidden.roll(-1, dims=1)


def prefix(hidden: torch.Tensor) -> torch.Tensor:
    """The first four rows see one another, as in a prefix language model; the others see what is before them."""
    return torch.cat([later(hidden[:, :4]), hidden[:, 4:]], dim=1)


def beside(hidden: torch.Tensor) -> torch.Tensor:
    """Every row sees the rows at its place in the other prompts of the batch."""
    return hidden + 0.2 * hidden.mean(dim=0, keepdim=True)


def by_length(hidden: torch.Tensor) -> torch.Tensor:
    """Every row is scaled by the length of the batch."""
    return hidden * (1.0 + 0.01 * hidden.shape[1])


def with_block_that(change: Change) -> transformers.PreTrainedModel:
    """A causal model whose middle block does one thing more."""
    model = transformers.AutoModelForCausalLM.from_config(config_of("llama")).eval()
    block = model.model.layers[1]
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        return change(original(*args, **kwargs))

    block.__class__ = type("Block", (block.__class__,), {"forward": lambda _self, *a, **k: forward(*a, **k)})
    return model


@pytest.mark.parametrize("change", [later, next_one, prefix])
def test_one_block_that_sees_later_rows_is_enough(change: Change) -> None:
    with pytest.raises(ArchitectureUnsupported, match="attends to later tokens"):
        probed(with_block_that(change))


def test_a_block_that_mixes_the_prompts_of_a_batch_is_refused_for_that() -> None:
    with pytest.raises(ArchitectureUnsupported, match="padded beside a longer prompt, the rows of a prompt move"):
        probed(with_block_that(beside))


def test_rows_that_depend_on_the_length_alone_are_told_apart() -> None:
    assert probed(with_block_that(by_length))


def test_blocks_that_do_not_replay_are_refused() -> None:
    calls = iter(range(1000))
    with pytest.raises(ArchitectureUnsupported, match=r"cannot be replayed one at a time \(block 2"):
        probed(with_block_that(lambda hidden: hidden + float(next(calls))))


def read_last_for_middle(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = vars(store).get("_reader") or vars(store)["_stored"]
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda name, into=None: read(name.replace(".1.", ".2."), into=into))


@pytest.mark.parametrize("dtype", ["float32", "checkpoint"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba"])
def test_a_block_that_is_streamed_wrongly_is_found(
    family: str, dtype: Literal["float32", "checkpoint"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(family, tmp_path / "model", dtype=torch.bfloat16)
    loaded = load(resolve_reference(os.fspath(folder), roots=None), MeasurementProfile(dtype=dtype), "cpu", stream=True)
    assert loaded.store is not None
    anatomy = find_anatomy(loaded.model, BLOCKS, "x", loaded.store)
    with torch.inference_mode():
        assert not probes.check_probes(loaded, anatomy, PROMPTS, follows_length=False)
        read_last_for_middle(loaded.store, monkeypatch)
        with pytest.raises(ArchitectureUnsupported, match="block 2 read piece by piece"):
            probes.check_probes(loaded, anatomy, PROMPTS, follows_length=False)
