"""Which files a checkpoint is: the ones that transformers and PEFT would load, and no others. No torch.

Everything that looks at a checkpoint - inspection, digests, the loader, streaming - reads this one list.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from spinal.checkpoints.opening import read_regular
from spinal.checkpoints.reading import Unreadable, parse_json
from spinal.errors import (
    AdapterInvalid,
    ConfigInvalid,
    PickleWeightsRefused,
    SpinalError,
    TokenizerInvalid,
    WeightsCorrupt,
    WeightsMissing,
)
from spinal.errors.faults import shown

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Files of a tokenizer that may change what it does, in a checkpoint that has them."""
GENERATION_CONFIG, PROCESSOR_TEMPLATE = "generation_config.json", "chat_template.json"
BESIDE = (GENERATION_CONFIG, PROCESSOR_TEMPLATE)
"""Files that say how a model is used and change nothing that is measured: held while they are read, and no part of what
a checkpoint is."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
OF_TRAINERS = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*")
"""Pickles that hold no weights."""
ELSEWHERE = (
    (("pytorch_model_fsdp_*", "*.distcp"), "shards of FSDP", "merge them first: accelerate merge-weights"),
    (("zero_to_fp32.py", "zero_pp_rank_*", "global_step*"), "shards of DeepSpeed",
     "merge them first: python zero_to_fp32.py FOLDER OUT --safe_serialization"),
    (("*.gguf",), "GGUF", "give the safetensors checkpoint that it was made from"),
)  # fmt: skip
"""What a folder without weights holds -> how its weights are kept, and what to do about it."""
UNREMARKABLE = frozenset({GENERATION_CONFIG, "README.md", "LICENSE", "LICENSE.txt", ".gitattributes", ".git"})
"""Files that say nothing about what a checkpoint computes, and that most checkpoints have."""
MOST_ENTRIES = 1000
"""So many entries of a folder are looked at for the remark on what is not read."""
MOST_NAMED = 5
MOST_CONFIG_BYTES = 16 * 2**20
MOST_INDEX_BYTES = 64 * 2**20
MOST_TOKENIZER_BYTES = 64 * 2**20
MOST_SHARDS = 10_000


@dataclass(frozen=True)
class FileList:
    """The files of one checkpoint folder by name, in the order in which they are read."""

    settings: tuple[str, ...]
    """Configuration and tokenizer files, and the index where the weights are in shards."""
    weights: tuple[str, ...]
    """Safetensors files; of shards, in name order, as transformers reads them."""
    others: tuple[str, ...] = ()
    """Files beside them that are not read, as far as they are worth a remark."""
    more: int = 0
    """How many others are not named."""
    uncounted: bool = False
    """Whether the folder holds so many files that there may be more others than were counted."""
    beside: tuple[str, ...] = ()
    """Files of ``BESIDE``, which are only compared."""

    @property
    def names(self) -> tuple[str, ...]:
        """All files that make the checkpoint what it is."""
        return (*self.settings, *self.weights)


def file_error(name: str) -> Callable[[str], SpinalError]:
    """The error of a listed file that cannot be used."""
    if name.startswith("adapter_"):
        return lambda detail: AdapterInvalid(detail, hint="save the adapter with save_pretrained()")
    if name in (CONFIG, *BESIDE):
        return lambda detail: ConfigInvalid(detail, hint="save the model with save_pretrained()")
    if name in TOKENIZER_FILES:
        return lambda detail: TokenizerInvalid(detail, hint="save the fast tokenizer with the model")
    return lambda detail: WeightsCorrupt(detail, hint="save the model with save_pretrained(), or copy it again")


def most_bytes(name: str) -> int:
    """The size up to which a settings file is read."""
    if name in TOKENIZER_FILES:
        return MOST_TOKENIZER_BYTES
    return MOST_INDEX_BYTES if name == INDEX else MOST_CONFIG_BYTES


def read_settings(folder: Path, name: str, source: str, roots: Sequence[Path] | None) -> dict[str, Any]:
    """A settings file that is a JSON object. Raises FileNotFoundError where there is none, and the file's error."""
    make = file_error(name)
    raw = read_regular(folder / name, source, make, most_bytes=most_bytes(name), roots=roots)
    try:
        # Some configurations of transformers hold limits without end.
        found = parse_json(raw, name, infinity=name == CONFIG)
    except Unreadable as error:
        raise make(f"{source}: {error}") from error
    if not isinstance(found, dict):
        raise make(f"{source}: {name} is not a JSON object")
    return found


def read_config(folder: Path, name: str, source: str, roots: Sequence[Path] | None = None) -> dict[str, Any]:
    """A settings file that a checkpoint must have."""
    try:
        return read_settings(folder, name, source, roots)
    except FileNotFoundError as error:
        raise file_error(name)(f"{source} has no {name}") from error


def list_files(folder: Path, source: str, roots: Sequence[Path] | None, *, adapter: bool) -> FileList:
    """The files of the checkpoint in ``folder`` that are read, ahead of reading them.

    As transformers does it: ``model.safetensors`` where there is one, else the shards that the index names; of an
    adapter ``adapter_model.safetensors``, its tokenizer and configuration being those of its base. Raises
    PickleWeightsRefused, WeightsMissing, WeightsCorrupt, AdapterInvalid, ModelPathRefused.
    """
    if adapter:
        settings, weights = [ADAPTER_CONFIG], _single(folder, ADAPTER_WEIGHTS)
    else:
        settings = [CONFIG, *(name for name in TOKENIZER_FILES if _is_there(folder / name))]
        weights = _single(folder, WEIGHTS)
        if not weights and _is_there(folder / INDEX):
            settings.append(INDEX)
            weights = _shards(folder, source, roots)
    if not weights:
        raise _without_weights(folder, source, ADAPTER_WEIGHTS if adapter else WEIGHTS)
    entries = _entries(folder)
    beside = () if adapter else tuple(name for name in BESIDE if (folder / name).is_file())
    others = sorted(entry.name for entry in entries if entry.name not in {*settings, *weights, *beside} | UNREMARKABLE)
    return FileList(
        tuple(settings),
        tuple(weights),
        beside=beside,
        others=tuple(shown(name) for name in others[:MOST_NAMED]),
        more=len(others[MOST_NAMED:]),
        uncounted=len(entries) == MOST_ENTRIES,
    )


def list_tokenizer_files(folder: Path) -> FileList:
    """The files of the tokenizer in ``folder``, and no others."""
    return FileList(tuple(name for name in TOKENIZER_FILES if _is_there(folder / name)), ())


def _is_there(path: Path) -> bool:
    """Whether there is anything of that name, so that a link that leads nowhere is an error and no absence."""
    return os.path.lexists(path)


def _single(folder: Path, name: str) -> list[str]:
    return [name] if _is_there(folder / name) else []


def _shards(folder: Path, source: str, roots: Sequence[Path] | None) -> list[str]:
    weight_map = read_settings(folder, INDEX, source, roots).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise file_error(INDEX)(f"{source}: {INDEX} has no weight_map")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise file_error(INDEX)(f"{source}: {INDEX} gives no safetensors file of this folder for {shown(tensor)}")
    shards = sorted(set(weight_map.values()))
    if len(shards) > MOST_SHARDS:
        raise file_error(INDEX)(f"{source}: {INDEX} names {len(shards)} files, at most {MOST_SHARDS} are read")
    for shard in shards:
        if not _is_there(folder / shard):
            raise WeightsMissing(f"{source}: shard {shown(shard)} is missing", hint="copy all shards")
    return shards


def _without_weights(folder: Path, source: str, name: str) -> SpinalError:
    found = sorted(entry.name for entry in _entries(folder))
    pickles = [entry for entry in found if entry.endswith(PICKLE_SUFFIXES) and not _is_like(entry, OF_TRAINERS)]
    for patterns, kept, remedy in ELSEWHERE:
        # A pickle beside them may be the whole model.
        if not pickles and any(_is_like(entry, patterns) for entry in found):
            return WeightsMissing(f"{source} holds no {name}; it keeps its weights as {kept}", hint=remedy)
    if pickles:
        return PickleWeightsRefused(
            f"{source} holds its weights only as pickle ({shown(pickles[0])}), which can run code when read",
            hint="convert them where you trust them: load the model and call save_pretrained(safe_serialization=True)",
        )
    strays = [entry for entry in found if entry.endswith(".safetensors")]
    beside = f"; it is not known how {shown(strays[0])} belongs to it" if strays else ""
    index = "" if name == ADAPTER_WEIGHTS else f" and no {INDEX}"
    return WeightsMissing(
        f"{source} holds no {name}{index}{beside}", hint="save it with save_pretrained(), the index included"
    )


def _is_like(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(islice(entries, MOST_ENTRIES))
    except OSError:
        return []
