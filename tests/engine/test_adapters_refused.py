"""Adapters that would be measured as something else: each is refused and told why, when submitted or when loaded."""

import json
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.adapters import adapted_copy
from spinal.engine.load import load, load_pair
from spinal.errors import AdapterInvalid, PickleWeightsRefused, SpinalError
from spinal.profile import MeasurementProfile
from tests.engine.adapter_variants import IDS, VARIANTS, lora, open_base, own_logits, save_adapter

PREFIX = "base_model.model."
FILE = "adapter_model.safetensors"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def made(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    return save_adapter(open_base(tiny("llama")), lora()(), folder)


@pytest.fixture
def adapter(made: Path, tiny: Callable[..., Path], tmp_path: Path) -> Path:
    """A LoRA beside its base, to be spoilt."""
    folder = tmp_path / "adapter"
    shutil.copytree(made, folder)
    (folder / "base").symlink_to(tiny("llama"))
    return folder


def resolved(folder: Path) -> Checkpoint:
    return resolve_reference(os.fspath(folder), roots=None)


def submitted(folder: Path) -> Any:
    """As a service takes it and a worker loads it."""
    inspect(resolved(folder))
    return opened(folder)


def opened(folder: Path) -> Any:
    with torch.inference_mode():
        return load(resolved(folder), MeasurementProfile(), "cpu").model


def settings(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(folder / FILE)), folder / FILE)


def renamed(tensors: Tensors) -> Tensors:
    return {n.replace(f"{PREFIX}model.", f"{PREFIX}model.language_model."): t for n, t in tensors.items()}


def halved(tensors: Tensors) -> Tensors:
    return dict(sorted(tensors.items())[::2])


def last_renamed(tensors: Tensors) -> Tensors:
    *kept, last = sorted(tensors)
    return {name: tensors[name] for name in kept} | {last.replace("layers.2", "layers.9"): tensors[last]}


def without(name: str, tensors: Tensors) -> Tensors:
    return {other: tensor for other, tensor in tensors.items() if other != name}


def one_missing(tensors: Tensors) -> Tensors:
    return without(max(tensors), tensors)


def one_more(tensors: Tensors) -> Tensors:
    return tensors | {"base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight": torch.zeros(4, 64)}


def named_default(tensors: Tensors) -> Tensors:
    return {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()}


def wider(tensors: Tensors) -> Tensors:
    first = min(tensors)
    return tensors | {first: torch.zeros(4, tensors[first].shape[1] + 1)}


SPOILT: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "all under another prefix": (renamed, r"12 of 12 .* match nothing .*model\.language_model\.layers\.0\.mlp"),
    "one of another model": (last_renamed, r"1 of 12 .* match nothing .*layers\.9"),
    "one too many": (one_more, r"1 of 13 .* match nothing .*v_proj"),
    "one twice": (lambda t: t | {min(named_default(t)): t[min(t)] + 1}, "are the same tensor"),
    "half of them": (halved, r"6 of 12 .* missing, first base_model\.model\.model\.layers\.0\."),
    "all but one": (one_missing, r"1 of 12 .* missing, first .*layers\.2"),
    "one of another width": (wider, r"tensor .*lora_A.* has shape \(4, 97\).* has \(4, 96\) there"),
    "not of PEFT": (lambda t: {n.removeprefix(PREFIX): v for n, v in t.items()}, "names of PEFT begin"),
    "none": (lambda t: {}, "holds no tensor"),
    "in eight bits": (lambda t: {n: v.to(torch.float8_e4m3fn) for n, v in t.items()}, "stored as F8_E4M3"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_tensors_that_do_not_fit_are_refused_by_name(name: str, adapter: Path) -> None:
    change, message = SPOILT[name]
    rewrite(adapter, change)
    with pytest.raises(AdapterInvalid, match=message):
        submitted(adapter)


def test_names_that_hold_the_adapters_own_name_are_understood(adapter: Path) -> None:
    expected = opened(adapter)(IDS).logits
    rewrite(adapter, named_default)
    assert torch.equal(submitted(adapter)(IDS).logits, expected)


@pytest.mark.parametrize("name", ["lora with a head to save", "lora with all biases", "vera", "vblora", "tokens"])
def test_a_missing_tensor_of_any_kind_is_noticed(name: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    family, config = VARIANTS[name]
    whole = save_adapter(open_base(tiny(family)), config(), tmp_path / "whole")
    for lost in load_file(whole / FILE):
        folder = tmp_path / "spoilt"
        shutil.copytree(whole, folder)
        (folder / "base").symlink_to(tiny(family))
        rewrite(folder, partial(without, lost))
        with pytest.raises(AdapterInvalid, match=r"missing|lacks|holds no tensor|not present"):
            submitted(folder)
        shutil.rmtree(folder)


def prompt_learning(kind: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=4, **more)


VIRTUAL = {
    "prefix tuning": prompt_learning("PrefixTuningConfig"),
    "prompt tuning": prompt_learning("PromptTuningConfig"),
    "p-tuning": prompt_learning("PromptEncoderConfig"),
    "adaption prompt": lambda: peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM"),
    "lily": lambda: peft.LilyConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("name", VIRTUAL)
def test_types_that_do_not_merge_are_refused_at_submission(
    name: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    model = peft.get_peft_model(open_base(tiny("llama")), VIRTUAL[name]())
    model.peft_config["default"].base_model_name_or_path = "base"
    model.save_pretrained(str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "base").symlink_to(tiny("llama"))
    with pytest.raises(AdapterInvalid, match=r"virtual tokens|cannot be merged") as refused:
        inspect(resolved(tmp_path / "adapter"))
    assert refused.value.hint


def test_a_pickle_is_not_read_for_an_adapter(adapter: Path) -> None:
    torch.save(load_file(adapter / FILE), adapter / "adapter_model.bin")
    (adapter / FILE).unlink()
    save_file({"x": torch.zeros(2)}, adapter / "optimizer.safetensors")
    with pytest.raises(PickleWeightsRefused):
        inspect(resolved(adapter))


def test_a_pickle_beside_the_weights_is_not_read(adapter: Path) -> None:
    expected = opened(adapter)(IDS).logits
    (adapter / "adapter_model.bin").write_bytes(b"not a pickle")
    assert torch.equal(opened(adapter)(IDS).logits, expected)


@pytest.mark.parametrize("base", [".", "../adapter", "other"])
def test_an_adapter_on_an_adapter_or_on_itself_is_refused(base: str, adapter: Path) -> None:
    settings(adapter, base_model_name_or_path=base)
    shutil.copytree(adapter, adapter / "other", symlinks=True)
    settings(adapter / "other", base_model_name_or_path="..")
    with pytest.raises(AdapterInvalid, match="its base is itself an adapter"):
        inspect(resolved(adapter))


def test_what_peft_raises_on_an_adapter_is_the_adapters_fault(adapter: Path) -> None:
    for spoilt in ({"target_modules": ["nothing"]}, {"lora_alpha": "big"}, {"bias": "some"}, {"r": 0}):
        kept = (adapter / "adapter_config.json").read_text()
        settings(adapter, **spoilt)
        with pytest.raises(AdapterInvalid) as refused:
            submitted(adapter)
        assert "\n" not in refused.value.detail
        (adapter / "adapter_config.json").write_text(kept)


def test_running_out_of_memory_is_no_fault_of_the_adapter(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), OSError(28, "No space left on device")):

        def fails(*_: object, raised: BaseException = error, **__: object) -> None:
            raise raised

        monkeypatch.setattr(peft, "set_peft_model_state_dict", fails)
        with pytest.raises(type(error)):
            opened(adapter)


def test_a_setting_of_another_peft_is_refused_where_it_switches_something_on(adapter: Path) -> None:
    settings(adapter, use_newest=False, newest_config=None, newest_size=8)
    opened(adapter)
    settings(adapter, use_newest=True)
    with pytest.raises(AdapterInvalid, match="'use_newest'"):
        opened(adapter)


def test_a_merge_that_computes_something_else_is_refused(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora.layer import Linear

    original = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: original(self, name) * 1.05)
    with pytest.raises(AdapterInvalid, match="logits of the merged adapter and of PEFT's own forward pass differ"):
        opened(adapter)


def grown(base: Path, folder: Path, by: int, config: Callable[[], Any], **saving: Any) -> Path:
    """An adapter that was trained on ``base`` with ``by`` rows more, or fewer."""
    model = open_base(base)
    torch.manual_seed(4)
    model.resize_token_embeddings(model.config.vocab_size + by, mean_resizing=False)
    wrapped = peft.get_peft_model(model, config())
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    wrapped.peft_config["default"].base_model_name_or_path = "base"
    wrapped.save_pretrained(str(folder), **saving)
    torch.save(wrapped.eval()(input_ids=IDS).logits, folder / "expected.pt")
    (folder / "base").symlink_to(base)
    return folder


TABLES = ["embed_tokens", "lm_head"]
SAVED: dict[str, Any] = {"save_embedding_layers": True}
RESIZED: dict[str, tuple[str, int, Callable[[], Any], dict[str, Any]]] = {
    "both saved as modules": ("llama", 1, lora(modules_to_save=TABLES), {}),
    "both saved as layers": ("llama", 64, lora(), SAVED),
    "both trained and saved": ("llama", 3, lora(target_modules=["q_proj", *TABLES]), SAVED),
    "both as modules and as layers": ("llama", 1, lora(modules_to_save=TABLES), SAVED),
    "tied, both as modules and as layers": ("llama-tied", 1, lora(modules_to_save=TABLES), SAVED),
    "tied and saved": ("llama-tied", 2, lora(), SAVED),
    "tied, both as modules": ("llama-tied", 2, lora(modules_to_save=TABLES), {}),
    "tied and kept tied": ("llama-tied", 2, lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True), {}),
    "fewer": ("llama", -16, lora(modules_to_save=TABLES), {}),
    "new tokens, tied": ("llama-tied", 2, lora(trainable_token_indices=[7, 2080, 2081]), {}),
}


@pytest.mark.parametrize("name", RESIZED)
def test_a_base_is_resized_to_the_rows_of_its_adapter(name: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    family, by, config, saving = RESIZED[name]
    folder = grown(tiny(family), tmp_path / "adapter", by, config, **saving)
    expected = torch.load(folder / "expected.pt")
    before = open_base(tiny(family)).state_dict()
    with torch.inference_mode():
        ours, theirs = load_pair(resolved(tiny(family)), resolved(folder), MeasurementProfile(), "cpu")
        for model in (theirs.model, opened(folder)):
            # As for every adapter: one more rounding of the weights, and another order of sums.
            torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=0.0, atol=1e-4)
        assert all(torch.equal(tensor, before[name]) for name, tensor in ours.model.state_dict().items())


def test_a_table_that_is_saved_twice_must_be_one(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = grown(tiny("llama"), tmp_path / "adapter", 1, lora(modules_to_save=TABLES), **SAVED)
    rewrite(folder, lambda t: {name: v + ("lm_head.modules_to_save" in name) for name, v in t.items()})
    with pytest.raises(AdapterInvalid, match=r"lm_head.* are the same tensor"):
        opened(folder)


UNFILLED: dict[str, tuple[str, Callable[[], Any]]] = {
    "input embeddings only": ("llama", lora(modules_to_save=["embed_tokens"])),
    "head only": ("llama", lora(modules_to_save=["lm_head"])),
    "one side of a tie": ("llama-tied", lora(modules_to_save=["embed_tokens"])),
    "low rank without the table": ("llama", lora(target_modules=["q_proj", "embed_tokens"])),
    "new tokens of one side": ("llama", lora(trainable_token_indices=[2080, 2081])),
}


@pytest.mark.parametrize("name", UNFILLED)
def test_rows_that_nothing_fills_are_refused_with_both_counts(
    name: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    family, config = UNFILLED[name]
    folder = grown(tiny(family), tmp_path / "adapter", 2, config, save_embedding_layers=False)
    with pytest.raises(AdapterInvalid, match=r"2082.*2080"):
        opened(folder)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_16_bit_base_takes_a_32_bit_adapter(
    dtype: torch.dtype, seed: int, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    base = tmp_path / "adapter" / "base"
    shutil.copytree(tiny("llama"), base)
    open_base(base).to(dtype).save_pretrained(base)
    folder = save_adapter(open_base(base, dtype), lora()(), tmp_path / "adapter", seed=seed)
    assert {tensor.dtype for tensor in load_file(folder / FILE).values()} == {torch.float32}
    expected = own_logits(open_base(base), folder)
    with torch.inference_mode():
        found = load(resolved(folder), MeasurementProfile(dtype="checkpoint"), "cpu").model(IDS).logits.float()
        # float32 holds what 16 bits hold: nothing but one rounding of the sum is lost.
        torch.testing.assert_close(opened(folder)(IDS).logits, expected, rtol=0.0, atol=1e-4)
    # Each of some hundred weights of a sum is rounded to 2**-9 or 2**-11 of itself.
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.1)


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    3,
    -1,
    10**6,
    1.5,
    "",
    "x",
    "(a|b)+",
    [],
    ["q_proj"],
    [0],
    {},
    {"q_proj": 2},
]
NAMES = [
    "alpha_pattern", "bias", "exclude_modules", "fan_in_fan_out", "init_lora_weights", "layers_pattern", "lora_alpha",
    "layers_to_transform", "lora_bias", "lora_dropout", "modules_to_save", "peft_version", "r", "rank_pattern",
    "target_modules", "target_parameters", "trainable_token_indices", "use_dora", "use_qalora", "use_rslora",
    "ensure_weight_tying", "kasa_config", "monteclora_config", "runtime_config", "auto_mapping", "revision",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_a_mutated_adapter_computes_what_peft_computes_or_is_refused(seed: int, adapter: Path) -> None:
    draw = random.Random(seed)
    changes = {draw.choice(NAMES): draw.choice(VALUES) for _ in range(draw.randint(1, 3))}
    settings(adapter, **changes)
    base = open_base(adapter / "base")
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    code = None
    try:
        inspect(resolved(adapter))
        with torch.inference_mode():
            found = adapted_copy(base, resolved(adapter))(input_ids=IDS).logits
    except SpinalError as error:
        code = error.code
    assert code in (None, "adapter_invalid"), changes
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items()), changes
    if code is None:
        torch.testing.assert_close(found, own_logits(base, adapter), rtol=0.0, atol=1e-4)
