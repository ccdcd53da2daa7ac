"""What config.json alone tells about an architecture: its shape, and whether it can have a depth trace. No torch.

What it cannot tell, the engine finds out on the loaded model: whether blocks follow one another, and whether a token
sees only those before it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spinal.errors import ArchitectureUnsupported, ConfigInvalid

LANGUAGE = re.compile(
    r"(ForCausalLM|LMHeadModel|WithLMHead|GenerationDecoder|ForConditionalGeneration|ForVisionText2Text)$"
)
"""Names of classes with a language head; what they really do is tried on the loaded model."""
TWO_SIDED = frozenset(
    {
        "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
        "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta",
        "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
"""Model types that attend to later tokens unless ``is_decoder`` is set."""
NAMES = {
    "n_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers",
                 "num_blocks", "layers_block_type", "hybrid_override_pattern"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "emb_dim", "dim_model", "model_dim"),
    "vocab_size": ("vocab_size", "n_words"),
    "max_positions": ("max_position_embeddings", "n_positions", "max_seq_len", "max_seq_length", "seq_length"),
}  # fmt: skip
"""How families call one quantity; the first that is present counts."""
STRETCHED = ("linear", "dynamic", "yarn")
"""Rotary scalings whose factor may not be in the stated number of positions."""


@dataclass(frozen=True)
class Shape:
    """Sizes as a configuration states them; None where it does not."""

    n_layers: int | None
    """D, the number of blocks; of the text tower in a multimodal checkpoint."""
    hidden_size: int | None
    vocab_size: int | None
    max_positions: int | None
    """Longest prompt in tokens, rotary scaling included."""


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the language model: the whole, or that of the text tower."""
    outer = config.get("thinker_config")
    inner = (outer if isinstance(outer, dict) else config).get("text_config")
    return inner if isinstance(inner, dict) else config


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape that a configuration states.

    Examples
    --------
    >>> shape_of({"n_layer": 2, "n_embd": 8, "vocab_size": 16, "rope_scaling": {"type": "linear", "factor": 4.0}})
    Shape(n_layers=2, hidden_size=8, vocab_size=16, max_positions=None)
    >>> rotary = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    >>> shape_of({"text_config": {"max_position_embeddings": 32, "rope_parameters": rotary}}).max_positions
    128
    """
    text = text_part(config)
    stated = {quantity: _stated(text, names) for quantity, names in NAMES.items()}
    return Shape(**stated | {"max_positions": _stretched(stated["max_positions"], text)})


def _stated(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if value and isinstance(value, (list, str)) and name in ("layers_block_type", "hybrid_override_pattern"):
            return len(value)
    return None


def _stretched(positions: int | None, text: Mapping[str, Any]) -> int | None:
    """Positions with the factor of a rotary scaling, where the stated number leaves it out."""
    if positions is None:
        return None
    longest = float(positions)
    for rotary in (text.get("rope_scaling"), text.get("rope_parameters")):
        for one in _scalings(rotary):
            factor, original = one.get("factor"), one.get("original_max_position_embeddings", positions)
            scaled = one.get("rope_type", one.get("type")) in STRETCHED
            if scaled and _is_number(factor) and _is_number(original):
                longest = max(longest, factor * original)
    return int(longest)


def _scalings(rotary: Any) -> list[dict[str, Any]]:
    """One scaling, or one for each type of layer."""
    if not isinstance(rotary, dict):
        return []
    return [rotary, *(one for one in rotary.values() if isinstance(one, dict))]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9


def check_architecture(config: Mapping[str, Any], source: str) -> None:
    """Refuse a configuration that says of itself that it has no depth trace; ``source`` is what errors call it. Its
    names were checked when it was read (:func:`spinal.checkpoints.configuration.as_meant`).

    Raises ConfigInvalid and ArchitectureUnsupported. What passes may still be refused once it is loaded.
    """
    kind, name = config["model_type"], architecture_of(config)
    if config.get("is_encoder_decoder"):
        raise ArchitectureUnsupported(
            f"{source} is an encoder-decoder ({name or kind})",
            hint="only decoder-only language models have a depth trace",
        )
    if name and not LANGUAGE.search(name):
        raise ArchitectureUnsupported(
            f"{source}: architecture {name!r} is not a causal language model",
            hint="the first entry of config.json 'architectures' must end in ForCausalLM, LMHeadModel or "
            "ForConditionalGeneration",
        )
    _check_direction(config, source, name or kind)
    _check_shape(config, source)


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that the configuration names first; empty where it names none."""
    names = config.get("architectures")
    return str(names[0]) if names and isinstance(names, list) else ""


def attends_later(source: str, why: str) -> ArchitectureUnsupported:
    """The error for a model in which a token sees those after it."""
    return ArchitectureUnsupported(
        f"{source} attends to later tokens: {why}",
        hint="only causal models have a depth trace: a prompt's rows may not depend on what follows them",
    )


def _check_direction(config: Mapping[str, Any], source: str, name: str) -> None:
    if config["model_type"] in TWO_SIDED and not config.get("is_decoder"):
        raise attends_later(source, f"{name} is an encoder unless config.json sets is_decoder")
    text = text_part(config)
    if text.get("use_bidirectional_attention") in (True, "all"):
        raise attends_later(source, "config.json sets use_bidirectional_attention")
    if text.get("is_causal") is False:
        raise attends_later(source, "config.json says is_causal: false")


def _check_shape(config: Mapping[str, Any], source: str) -> None:
    """Sizes are usable where they stand. A text tower's configuration may leave out what is the default of its type."""
    shape, text = shape_of(config), text_part(config)
    for quantity in ("n_layers", "hidden_size", "vocab_size"):
        value = getattr(shape, quantity)
        left_out = text is not config and not any(name in text for name in NAMES[quantity])
        if not left_out and (value is None or value < 1):
            raise ConfigInvalid(f"{source}: config.json gives no usable {quantity}")
