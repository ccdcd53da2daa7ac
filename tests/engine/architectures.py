"""Tiny seeded checkpoints of many architectures: real model code, random weights, the bundled tokenizer."""

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.engine.families import FAMILIES, KINDS, MORE, REFUSED, SEEING, SIZES, TOWERS
from tests.support.places import EXAMPLES

AUTO = (
    transformers.AutoModelForImageTextToText,
    transformers.AutoModelForMultimodalLM,
    transformers.AutoModelForCausalLM,
)


def sized(config: type[transformers.PretrainedConfig], sizes: dict[str, Any]) -> dict[str, Any]:
    """Those of ``sizes`` that this type of configuration knows, nested parts included."""
    default = config()
    aliases, known = config.attribute_map, default.to_dict()
    fitting = {
        name: value
        for name, value in sizes.items()
        if (name in known and not isinstance(known[name], (list, dict)))
        or (name in aliases and aliases[name] not in sizes)
    }
    for name in config.sub_configs:
        part = getattr(default, name, None)
        if part is not None:
            inner = SIZES if "text" in name else SEEING
            fitting[name] = sized(type(part), inner) | {"model_type": part.model_type}
    return fitting


def config_of(family: str) -> transformers.PretrainedConfig:
    """The configuration of a family; ``tower:`` and ``refused:`` in front of a model type name the other tables."""
    if family in FAMILIES:
        model_type, members = FAMILIES[family]
        return transformers.AutoConfig.for_model(model_type, **members)
    table, _, name = family.rpartition(":")
    members = TOWERS[name] if table == "tower" else REFUSED[name][0] if table == "refused" else (KINDS | MORE)[name]
    small = sized(CONFIG_MAPPING[name], SIZES)
    into = small["text_config"] if table and "text_config" in small else small
    into |= members
    return transformers.AutoConfig.for_model(name, **{key: value for key, value in small.items() if value is not ...})


def build(family: str, folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write a checkpoint of ``family`` with weights large enough for every block to matter."""
    config = config_of(family)
    auto = next(each for each in AUTO if type(config) in each._model_mapping)
    torch.manual_seed(seed)
    model = auto.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 0.08)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.02)
    model.to(dtype).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(EXAMPLES / "checkpoints" / "sft" / file, folder / file)
    return folder
