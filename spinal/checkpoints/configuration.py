"""What a config.json says: read as it is meant, held to stated limits, and to what the weights hold. No torch.

A configuration chooses code (attention kernels from a hub, other files beside it), sizes what is built before a single
weight is read, and is written by many tools. What only says how to compute is left out; what cannot be true is refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.errors import ConfigInvalid
from spinal.errors.faults import shown

RUNS_BY: dict[str, frozenset[str | None]] = {
    **dict.fromkeys(
        ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
        frozenset({None, "eager", "sdpa"}),
    ),
    **dict.fromkeys(
        ("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
        frozenset({None, "eager", "grouped_mm", "batched_mm"}),
    ),
}  # fmt: skip
"""Members that choose the code that runs, with the values that choose code of torch and transformers themselves. Others
need packages, a device, or code from elsewhere."""
LEFT_OUT: dict[str, Any] = {
    "configuration_files": None, "transformers_weights": None, "fusion_config": None, "distributed_config": None,
    "kernel_config": None, "use_kernels": False, "device_map": None, "return_dict": True, "use_return_dict": True,
    "torchscript": False, "output_attentions": False, "output_hidden_states": False, "gradient_checkpointing": False,
}  # fmt: skip
"""Members that choose other files, how to run or what to return, with the value that needs no remark."""
DTYPES = {
    "bf16": "bfloat16", "fp16": "float16", "f16": "float16", "half": "float16", "fp32": "float32", "f32": "float32",
    "float": "float32", "fp64": "float64", "f64": "float64", "double": "float64",
    "bfloat16": "bfloat16", "float16": "float16", "float32": "float32", "float64": "float64",
}  # fmt: skip
DTYPE_MEMBERS = ("dtype", "torch_dtype")

MOST_NAME = 100
MOST_BLOCKS = 4_096
BLOCKS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
LIMITS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(BLOCKS, (1, MOST_BLOCKS)),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size"), (1, 1 << 20)),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "ffn_dim", "n_inner"), (0, 1 << 24)),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "head_dim"), (1, 1 << 16)),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"), (0, 1 << 16)),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"), (1, 1 << 24)),
    **dict.fromkeys(("num_nextn_predict_layers", "mtp_num_hidden_layers"), (0, MOST_BLOCKS)),
    "vocab_size": (1, 1 << 26),
}  # fmt: skip
"""Integers, or lists of them by block, with the least and the most that each may be. The most is far beyond any model
that exists, and still small enough to be multiplied and compared."""
FRACTIONS = re.compile(
    r"(_eps|epsilon|_theta|_dropout|_pdrop|_range|_scale|_scaling|_multiplier|_factor|_softcapping)$"
)
"""Endings of the names of numbers that some writers (YAML among them) leave as text: ``"1e-5"``."""
SQUARE = frozenset({"gpt2", "gpt_neo", "gpt_bigcode", "openai-gpt", "imagegpt"})
NUMBERED = re.compile(r"(?<![^.])\d{1,6}(?=\.)")


@dataclass(frozen=True)
class Meant:
    """A configuration as the engine is to follow it."""

    config: dict[str, Any]
    remarks: tuple[str, ...]
    """What of the file was left out or read otherwise."""


def as_meant(config: Mapping[str, Any], source: str) -> Meant:
    """``config`` without what only chooses how to compute, with numbers and types spelled as transformers spells them;
    the same in every configuration inside it. Raises ConfigInvalid naming the first member that cannot be true."""
    reading = _Reading(source)
    meant = reading.part(config)
    _check_names(meant, source)
    return Meant(meant, tuple(reading.remarks))


class _Reading:
    def __init__(self, source: str) -> None:
        self.source = source
        self.remarks: list[str] = []

    def part(self, config: Mapping[str, Any], place: str = "") -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, value in config.items():
            if name in LEFT_OUT or (name in RUNS_BY and not _is_one_of(value, RUNS_BY[name])):
                if value is not None and value != LEFT_OUT.get(name):
                    self._remark(f"config.json asks for {place}{name} = {_told(value)}, which is not followed")
            elif name in DTYPE_MEMBERS:
                kept |= self._dtype(place, name, value)
            elif isinstance(value, dict) and name.endswith("_config") and name != "quantization_config":
                kept[name] = self.part(value, f"{place}{shown(name)}.")
            else:
                kept[name] = self._number(place, name, value)
        self._padding(place, kept)
        return kept

    def _remark(self, text: str) -> None:
        self.remarks.append(f"{self.source}: {text}")

    def _dtype(self, place: str, name: str, value: Any) -> dict[str, Any]:
        """The member as torch names it; nothing where the stored weights say it."""
        if value is None or isinstance(value, dict):
            # By part of the model, which transformers reads itself; only what it names is looked at.
            known = {part: _torch_name(each) for part, each in (value or {}).items()}
            return {name: known} if known and all(known.values()) else {}
        spelled = _torch_name(value)
        if spelled is None:
            if value != "auto":
                self._remark(f"config.json's {place}{name} = {_told(value)} is not followed; the weights' own type is")
            return {}
        return {name: spelled}

    def _number(self, place: str, name: str, value: Any) -> Any:
        if name in LIMITS:
            return self._counts(place, name, value)
        if isinstance(value, str) and FRACTIONS.search(name) and (number := _fraction(value)) is not None:
            self._remark(f"config.json's {place}{name} = {_told(value)} is read as a number")
            return number
        return value

    def _counts(self, place: str, name: str, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, list):
            if len(value) > MOST_BLOCKS:
                raise self._refused(place, name, f"a list of {len(value):,}")
            return [each if each is None else self._count(place, name, each, 0) for each in value]
        # A part that is not read, such as a tower for images, may be switched off by a zero.
        return self._count(place, name, value, LIMITS[name][0] if place in ("", "text_config.") else 0)

    def _count(self, place: str, name: str, value: Any, least: int) -> int:
        number, most = _whole(value), LIMITS[name][1]
        if number is None or not least <= number <= most:
            raise self._refused(place, name, _told(value), f"it must be a whole number from {least} to {most:,}")
        if type(value) is not int:
            self._remark(f"config.json's {place}{name} = {_told(value)} is read as {number}")
        return number

    def _padding(self, place: str, kept: dict[str, Any]) -> None:
        """A padding token outside the table stops the table from being made, and padding is never read."""
        pad, rows = kept.get("pad_token_id"), kept.get("vocab_size")
        number = _whole(pad)
        # The last row, as some writers have it; torch reads it so, too.
        if pad is None or number == -1:
            return
        if number is None or number < 0 or (isinstance(rows, int) and number >= rows):
            self._remark(f"config.json's {place}pad_token_id = {_told(pad)} is not followed: no token has that id")
            kept["pad_token_id"] = None

    def _refused(self, place: str, name: str, told: str, why: str = "no model has that") -> ConfigInvalid:
        return ConfigInvalid(
            f"{self.source}: config.json gives {place}{name} = {told}; {why}",
            hint="save the model again with save_pretrained()",
        )


def _check_names(config: dict[str, Any], source: str) -> None:
    model_type = config.get("model_type")
    if not _is_name(model_type):
        raise ConfigInvalid(f"{source}: config.json names no model_type", hint="save the model with save_pretrained()")
    names = config.get("architectures")
    if names is not None and not (isinstance(names, list) and all(map(_is_name, names))):
        raise ConfigInvalid(
            f"{source}: config.json's architectures is not a list of names", hint="give it as a list of one name"
        )
    inner = config.get("text_config")
    if inner is not None and not isinstance(inner, dict):
        raise ConfigInvalid(f"{source}: config.json's text_config is not an object", hint="save the model again")
    heads, shared = (config.get(name) for name in ("num_attention_heads", "num_key_value_heads"))
    if type(heads) is int and type(shared) is int and heads % shared:
        raise ConfigInvalid(
            f"{source}: config.json gives {heads} attention heads and {shared} of keys and values, which do not divide",
            hint="save the model again with save_pretrained()",
        )


def check_against_headers(checkpoint: Checkpoint, headers: Iterable[Mapping[str, Any]]) -> None:
    """Whether the weights hold what the configuration claims: blocks, width and rows of the vocabulary, before
    anything of that size is built. ``headers`` are those of all weight files. Raises ConfigInvalid."""
    extents: set[int] = set()
    blocks = 0
    for header in headers:
        for name, tensor in header.items():
            extents.update(tensor["shape"])
            for number in NUMBERED.findall(name):
                blocks = max(blocks, int(number) + 1)
    config, source = checkpoint.text_config, checkpoint.source
    told = checkpoint.n_layers
    if told is not None and told > blocks:
        raise _contradiction(source, f"{told:,} blocks", f"{blocks:,}")
    for name, size in (("hidden_size", checkpoint.hidden_size), ("vocab_size", checkpoint.vocab_size)):
        if size is not None and size not in extents:
            raise _contradiction(source, f"{name} {size:,}", "no tensor of that extent")
    # Their masks are of positions by positions, and are built whatever the table of positions holds.
    if checkpoint.config.get("model_type") in SQUARE and checkpoint.max_positions not in {None, *extents}:
        raise _contradiction(source, f"{checkpoint.max_positions:,} positions", "no tensor of that extent")
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        experts = config.get(name)
        if type(experts) is int and experts > max(blocks, 64) and experts not in extents:
            raise _contradiction(source, f"{experts:,} experts", "no tensor of that extent")


def _contradiction(source: str, claimed: str, held: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"{source}: config.json claims {claimed}, the weights hold {held}",
        hint="put the config.json that was saved with these weights beside them, or copy all shards",
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_NAME and value.isprintable()


def _is_one_of(value: Any, values: frozenset[str | None]) -> bool:
    return (value is None or isinstance(value, str)) and value in values


def _torch_name(value: Any) -> str | None:
    """The name of a type of numbers as torch has it, without ``torch.`` in front; None for one that is not known."""
    return DTYPES.get(value.removeprefix("torch.").lower()) if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    """A whole number as an integer, however it is spelled."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\d{1,12}", value, re.ASCII) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None


def _fraction(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[+-]?\d{1,20}(\.\d{0,20})?([eE][+-]?\d{1,2})?", text, re.ASCII) else None


def _told(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return shown(text[:60])
