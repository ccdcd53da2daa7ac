"""On what the settings of two checkpoints differ: configuration, generation configuration, chat template. No torch.

Only files that a checkpoint holds are read (:mod:`spinal.checkpoints.files`).
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.configuration import DTYPE_MEMBERS, LEFT_OUT, RUNS_BY
from spinal.checkpoints.files import GENERATION_CONFIG, PROCESSOR_TEMPLATE, file_error, most_bytes, read_settings
from spinal.checkpoints.opening import read_regular
from spinal.checkpoints.tokenizer import TOKENIZER_CONFIG
from spinal.documents.evidence import SettingDifference
from spinal.errors import SpinalError
from spinal.text import readable

CONFIGURATION, GENERATION, TEMPLATE = "configuration", "generation", "chat template"
JINJA = "chat_template.jinja"
TEMPLATE_MEMBER = "chat_template"
BOOKKEEPING = frozenset({
    "transformers_version", "architectures", "use_cache", "auto_map", "id2label", "label2id", "problem_type",
    "finetuning_task", "tokenizer_class", "task_specific_params", "pretraining_tp", "vocab_size", "tie_word_embeddings",
    "torch_dtype", "quantization_config", "compression_config", "initializer_range", "is_encoder_decoder",
    "chunk_size_feed_forward", "output_router_logits", *RUNS_BY, *LEFT_OUT, *DTYPE_MEMBERS,
})  # fmt: skip
"""Members of a configuration that change nothing between token ids and logits: how it was written, stored, run or
trained. What they say of tensors is told by the tensors."""
BOOKKEEPING_ENDINGS = re.compile(
    r"(_token_ids?|dropout(_rate|_prob)?|dropout_p|_pdrop|_drop|_init|_initializer|initializer_(range|factor|std)|"
    r"_loss_coef|jitter_noise|_jitter|gradient_checkpointing)$"
)
UNSEEN = frozenset({"transformers_version"})
"""Left out of a comparison of generation configurations."""
MOST_SHOWN = 100


def setting_differences(
    reference: Checkpoint,
    candidate: Checkpoint,
    configurations: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
) -> tuple[SettingDifference, ...]:
    """Members on which the two sides' settings differ, sorted by part and name; those of an adapter are its base's.

    ``configurations`` are those of the text parts as whoever runs them completes them, so that a member which one side
    leaves to its default is no difference; without them, as the files say it.
    """
    sides = (reference.whole, candidate.whole)
    configs = configurations or tuple(side.config for side in sides)
    found = [*_differences(CONFIGURATION, *(_flat(config) for config in configs))]
    found += _differences(GENERATION, *(_generation(side) for side in sides))
    found += _differences(TEMPLATE, *(_templates(side) for side in sides))
    return tuple(found)


def differing_keys(mine: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the members of two configurations that differ and shape the computation, inner ones with a dot.

    Examples
    --------
    >>> differing_keys({"rope_theta": 500.0, "use_cache": True}, {"rope_theta": 1e4, "use_cache": False})
    ('rope_theta',)
    """
    found = _differences(CONFIGURATION, _flat(mine), _flat(other))
    return tuple(difference.key for difference in found if difference.computes)


def shapes_computation(key: str) -> bool:
    """Whether a member of a configuration, by its name, may change what is computed from token ids; one that nobody
    knows may."""
    names = key.split(".")
    return not any(name in BOOKKEEPING or BOOKKEEPING_ENDINGS.search(name) for name in names)


def _differences(part: str, mine: dict[str, Any], other: dict[str, Any]) -> Iterator[SettingDifference]:
    for key in sorted(mine.keys() | other.keys()):
        if mine.get(key) != other.get(key):
            yield SettingDifference(
                part=part,
                key=_short(key),
                reference=_shown(mine, key),
                candidate=_shown(other, key),
                computes=part == CONFIGURATION and shapes_computation(key),
            )


def _flat(config: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Members by name, inner ones with a dot. Private ones name places of a machine; one that is null is one that is
    not there."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        name = str(name)
        if name.startswith("_") or value is None:
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, f"{place}{name}.")
        else:
            found[f"{place}{name}"] = list(value) if isinstance(value, tuple | set | frozenset) else value
    return found


def _generation(checkpoint: Checkpoint) -> dict[str, Any]:
    found = _beside(checkpoint, GENERATION_CONFIG)
    if isinstance(found, str):
        return {GENERATION_CONFIG: found}
    return {name: value for name, value in _flat(found).items() if name not in UNSEEN}


def _beside(checkpoint: Checkpoint, name: str) -> dict[str, Any] | str:
    """What a file says that nothing but this comparison reads; why it says nothing where it cannot be read."""
    if name not in checkpoint.files.beside:
        return {}
    try:
        return read_settings(checkpoint.path, name, checkpoint.source, checkpoint.roots)
    except SpinalError:
        return "not readable"


def _templates(checkpoint: Checkpoint) -> dict[str, str]:
    """Length and digest of each template by name. A file of its own takes the place of what tokenizer_config.json
    says."""
    told = None
    if TOKENIZER_CONFIG in checkpoint.files.settings:
        # Its own, whichever tokenizer reads the prompts.
        own = read_settings(checkpoint.path, TOKENIZER_CONFIG, checkpoint.source, checkpoint.roots)
        told = own.get(TEMPLATE_MEMBER)
    processor = _beside(checkpoint, PROCESSOR_TEMPLATE)
    if isinstance(processor, str):
        return {PROCESSOR_TEMPLATE: processor}
    told = processor.get(TEMPLATE_MEMBER, told)
    found: dict[str, str] = {}
    if isinstance(told, str):
        found["default"] = told
    elif isinstance(told, list):
        found = {str(each.get("name")): str(each.get("template")) for each in told if isinstance(each, dict)}
    if JINJA in checkpoint.files.settings:
        make = file_error(JINJA)
        raw = read_regular(
            checkpoint.path / JINJA, checkpoint.source, make, most_bytes=most_bytes(JINJA), roots=checkpoint.roots
        )
        found["default"] = raw.decode("utf-8", errors="replace")
    return {name: _digest(text) for name, text in found.items()}


def _digest(text: str) -> str:
    """A template is too long to be shown."""
    return f"{len(text):,} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _shown(settings: dict[str, Any], key: str) -> str | None:
    if key not in settings:
        return None
    value = readable(settings[key])
    return _short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _short(text: str) -> str:
    clean = str(readable(text))
    return clean if len(clean) <= MOST_SHOWN else f"{clean[: MOST_SHOWN - 1]}…"
