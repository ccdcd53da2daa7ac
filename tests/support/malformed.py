"""Checkpoint folders that are wrong in seeded ways: bytes, JSON, headers, names, and what stands in place of files."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.support.places import EXAMPLES

WIDTH, ROWS, BLOCKS = 16, 2048, 2
TOKENIZER = EXAMPLES / "checkpoints" / "sft"
CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "intermediate_size": 24,
    "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "vocab_size": ROWS, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "dtype": "float32", "hidden_act": "silu",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
ADAPTER: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "../base", "r": 2, "lora_alpha": 4,
    "lora_dropout": 0.0, "bias": "none", "target_modules": ["q_proj"], "inference_mode": True, "fan_in_fan_out": False,
}  # fmt: skip
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**70, 10**9, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "1e-5", "auto", "x" * 5000, "../../../etc/passwd", "/dev/zero", "\0", "\x1b[2J\x1b]0;x\x07", "ümläut",
    "eager", "flash_attention_2", "kernels-community/flash-attn", "torch.bfloat16", "gptq", [], {}, [[]], [None], ["a"],
    {"": {}}, [0] * 3000, {"quant_method": "gptq", "bits": 4}, {"rope_type": "yarn"}, "model.safetensors", 1e-320,
)  # fmt: skip
NAMES = ("", "__metadata__", "a" * 2000, "\x1b[31m", "auto_map", "quantization_config", "attn_implementation", "dtype",
         "text_config", "is_encoder_decoder", "layer_types", "rope_scaling", "pad_token_id", "configuration_files",
         "transformers_weights", "fast_tokenizer_files", "sliding_window", "use_cache", "num_experts")  # fmt: skip


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """The weights of a llama of two blocks, as transformers names them."""
    numbers = np.random.default_rng(seed)
    shapes = {
        "model.embed_tokens.weight": (ROWS, WIDTH),
        "lm_head.weight": (ROWS, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    for block in range(BLOCKS):
        inside = {
            "self_attn.q_proj": (16, WIDTH), "self_attn.k_proj": (8, WIDTH), "self_attn.v_proj": (8, WIDTH),
            "self_attn.o_proj": (WIDTH, 16), "mlp.gate_proj": (24, WIDTH), "mlp.up_proj": (24, WIDTH),
            "mlp.down_proj": (WIDTH, 24), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
        }  # fmt: skip
        shapes |= {f"model.layers.{block}.{name}.weight": shape for name, shape in inside.items()}
    return {name: numbers.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def write_whole(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)


def write_shards(folder: Path) -> None:
    write_whole(folder)
    (folder / "model.safetensors").unlink()
    everything = sorted(tensors().items())
    weight_map: dict[str, str] = {}
    for number, part in enumerate((everything[:9], everything[9:]), 1):
        name = f"model-{number:05}-of-00002.safetensors"
        save_file(dict(part), folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(dict(part), name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_adapter(folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    numbers = np.random.default_rng(1)
    low = {}
    for block in range(BLOCKS):
        name = f"base_model.model.model.layers.{block}.self_attn.q_proj"
        low[f"{name}.lora_A.weight"] = numbers.normal(size=(2, WIDTH)).astype(np.float32)
        low[f"{name}.lora_B.weight"] = numbers.normal(size=(16, 2)).astype(np.float32)
    save_file(low, folder / "adapter_model.safetensors", metadata={"format": "pt"})


KINDS: dict[str, Callable[[Path], None]] = {"whole": write_whole, "shards": write_shards, "adapter": write_adapter}


def make_sound(root: Path) -> None:
    """A sound folder of each kind below ``root``, and the base that adapters name."""
    write_whole(root / "base")
    for kind, write in KINDS.items():
        write(root / kind)


def malform(root: Path, name: str, seed: int) -> str:
    """Below ``root``, a copy of one of the sound folders with one to three things wrong; says which."""
    chance = random.Random(seed)
    kind = chance.choice(list(KINDS))
    folder = root / name
    shutil.copytree(root / kind, folder, copy_function=os.link)
    done = [kind]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        file = chance.choice(sorted(folder.iterdir()))
        change = chance.choice(_changes_of(file))
        raw = file.read_bytes() if file.is_file() and file.stat().st_size < 1 << 24 else b""
        if not raw:
            continue
        # The sound folder shares the file.
        file.unlink()
        change(file, raw, chance)
        done.append(f"{change.__name__.strip('_')} {file.name}")
    return ", ".join(done)


Change = Callable[[Path, bytes, random.Random], None]


def _changes_of(file: Path) -> tuple[Change, ...]:
    anything: tuple[Change, ...] = (_cut, _flip, _insert, _repeat, _empty, _replace)
    if file.suffix == ".safetensors":
        return (*anything, *[_change_header] * 8, _lengthen)
    return (*anything, *[_change_json] * 10, _nest, _encode, _twice)


def _cut(file: Path, raw: bytes, chance: random.Random) -> None:
    file.write_bytes(raw[: chance.randrange(len(raw))])


def _flip(file: Path, raw: bytes, chance: random.Random) -> None:
    changed = bytearray(raw)
    for _ in range(chance.choice((1, 10, 1000))):
        changed[chance.randrange(min(len(raw), chance.choice((64, 4096, len(raw)))))] = chance.randrange(256)
    file.write_bytes(changed)


def _insert(file: Path, raw: bytes, chance: random.Random) -> None:
    at = chance.randrange(len(raw))
    file.write_bytes(raw[:at] + chance.randbytes(chance.choice((1, 8, 5000))) + raw[at:])


def _repeat(file: Path, raw: bytes, chance: random.Random) -> None:
    begin = chance.randrange(len(raw))
    file.write_bytes(raw + raw[begin : begin + chance.choice((1, 100, 10**6))])


def _empty(file: Path, raw: bytes, chance: random.Random) -> None:
    file.write_bytes(b"")


def _replace(file: Path, raw: bytes, chance: random.Random) -> None:
    match chance.randrange(7):
        case 0:
            os.mkfifo(file)
        case 1:
            file.mkdir()
        case 2:
            file.symlink_to(file)
        case 3:
            file.symlink_to("/dev/zero")
        case 4:
            file.symlink_to("/etc/passwd")
        case 5:
            with file.open("wb") as stream:
                stream.truncate(1 << 40)
        case _:
            file.symlink_to(file.with_name("nothing-is-there"))


def _change_json(file: Path, raw: bytes, chance: random.Random) -> None:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = {}
    file.write_text(json.dumps(_changed(value, chance)))


def _change_header(file: Path, raw: bytes, chance: random.Random) -> None:
    length = int.from_bytes(raw[:8], "little")
    try:
        header = json.loads(raw[8 : 8 + length])
    except (ValueError, RecursionError):
        header = {}
    packed = json.dumps(_changed(header, chance)).encode()
    file.write_bytes(len(packed).to_bytes(8, "little") + packed + raw[8 + length :])


def _lengthen(file: Path, raw: bytes, chance: random.Random) -> None:
    length = chance.choice((0, 1, 7, 2**32, 2**62, 2**64 - 1, len(raw), len(raw) - 8))
    file.write_bytes(length.to_bytes(8, "little") + raw[8:])


def _nest(file: Path, raw: bytes, chance: random.Random) -> None:
    depth, (opening, closing) = chance.choice((50, 900, 100_000)), chance.choice((("[", "]"), ('{"a":', "}")))
    nested = f'"deep": {opening * depth}1{closing * depth}, '
    file.write_bytes(raw[:1] + nested.encode() + raw[1:])


def _encode(file: Path, raw: bytes, chance: random.Random) -> None:
    file.write_bytes(raw.decode("utf-8", "replace").encode(chance.choice(("utf-16", "utf-32", "utf-8-sig"))))


def _twice(file: Path, raw: bytes, chance: random.Random) -> None:
    file.write_bytes(raw[:1] + b'"model_type": "gpt2", "model": {}, "r": 1, ' + raw[1:])


def _changed(value: Any, chance: random.Random) -> Any:
    """``value`` with something in it left out, renamed, added or replaced, near the root rather than deep inside."""
    if isinstance(value, (dict, list)) and value and chance.random() < 0.75:
        if isinstance(value, list):
            place = chance.randrange(len(value))
            return [*value[:place], _changed(value[place], chance), *value[place + 1 :]]
        name = chance.choice(list(value))
        rest = {key: each for key, each in value.items() if key != name}
        match chance.randrange(8):
            case 0:
                return rest
            case 1:
                return rest | {chance.choice(NAMES): value[name]}
            case 2:
                return value | {chance.choice(NAMES): chance.choice(STRANGE)}
            case _:
                return value | {name: _changed(value[name], chance)}
    return chance.choice(STRANGE)
