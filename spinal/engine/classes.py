"""Which of transformers' classes a checkpoint is opened with, and what of it a text prompt never reaches."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
)

from spinal.errors import ArchitectureUnsupported

MAPPINGS: tuple[Any, ...] = (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
)
"""transformers' own tables from a type of configuration to a class with a language head, the first one preferred."""

SENSES = {"vision": "vision", "visual": "vision", "image": "vision", "vq": "vision", "video": "video", "audio": "audio",
          "speech": "audio"}  # fmt: skip
"""Words in the names of parts that no text reaches, and what such a part is called."""


def opening_class(
    config: PretrainedConfig, architecture: str, source: str
) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """The class that a checkpoint is opened with, and the part of its configuration that the class takes.

    It is the one that the checkpoint names (``architecture``, empty where it names none), so that every stored tensor
    has its place, where transformers has it for this type; else the first that transformers has. Raises
    ArchitectureUnsupported where there is none.
    """
    known = [one for mapping in MAPPINGS if type(config) in mapping for one in _classes(mapping[type(config)])]
    if not known:
        raise ArchitectureUnsupported(
            f"{source}: transformers has no causal language model of type {config.model_type!r}",
            hint="only decoder-only language models, and multimodal models around one, have a depth trace",
        )
    found = next((one for one in known if one.__name__ == architecture), known[0])
    inner = config.sub_configs.get("text_config")
    return found, config.get_text_config() if inner is not None and found.config_class is inner else config


def class_remarks(chosen: type[PreTrainedModel], config: Mapping[str, Any]) -> tuple[str, ...]:
    """Where a checkpoint names another class than the one that it was opened with, or code of its own."""
    found, name = [], chosen.__name__
    others = [str(other)[:100] for other in config.get("architectures") or () if other != name]
    if others:
        found.append(
            f"config.json names the architecture {' and '.join(map(repr, others[:3]))}; what transformers makes of "
            f"model_type {config.get('model_type')!r} was measured, {name}"
        )
    if config.get("auto_map"):
        found.append(f"config.json names Python code of the checkpoint's own, which is not run; {name} was measured")
    return tuple(found)


def _classes(found: Any) -> tuple[type[PreTrainedModel], ...]:
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def text_modules(model: PreTrainedModel) -> set[nn.Module]:
    """The modules of the part that continues a text; all of them where transformers does not tell it apart."""
    decoder = model.get_decoder()
    return set((model if decoder is None else decoder).modules())


def tower_remarks(model: PreTrainedModel) -> tuple[str, ...]:
    """What a reader must know of a multimodal checkpoint: its text tower is what was measured."""
    names = sorted(_other_parts(model))
    if not names:
        return ()
    parts, one = " and ".join(names), len(names) == 1
    return (
        f"text tower of {type(model).__name__} measured; the {parts} part{'' if one else 's'} "
        f"{'was' if one else 'were'} not looked at",
    )


def _other_parts(model: PreTrainedModel) -> set[str]:
    """Senses that parts of the model or of its configuration are named after."""
    outer = getattr(model.config, "thinker_config", None) or model.config
    configured = (name for name in outer.sub_configs if getattr(outer, name, None) is not None)
    modules = (part for name, _ in model.named_modules() for part in name.split("."))
    words = {word for name in (*configured, *modules) for word in name.split("_")}
    return {sense for word, sense in SENSES.items() if word in words}
