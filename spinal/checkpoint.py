"""What can be known about a checkpoint from its files alone: reference, shape, integrity, identity. No torch.

The API checks submissions with it, workers check again before they load.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinal.canonical import digest_of
from spinal.errors import (
    AdapterInvalid,
    ArchitectureUnsupported,
    Cancelled,
    ConfigInvalid,
    ModelNotFound,
    ModelPathRefused,
    ModelReferenceInvalid,
    PairMismatch,
    PickleWeightsRefused,
    TokenizerInvalid,
    TokenizerMismatch,
    WeightsCorrupt,
    WeightsMissing,
)
from spinal.progress import CancelCheck, Progress, ProgressSink, ignore_progress, never_cancelled
from spinal.safetensors_header import read_header, scan_non_finite
from spinal.unchanged import Unchanged

MAX_REFERENCE = 1024
SCAN_BYTES = 256 * 1024 * 1024
"""Checkpoints up to this size are scanned for NaN when inspected; larger ones when loaded."""
HASH_PIECE = 16 * 1024 * 1024
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CAUSAL = re.compile(r"(ForCausalLM|LMHeadModel)$")
IDENTITY_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
ADAPTER_CONFIG = "adapter_config.json"

_sound, _same_tokenizer = Unchanged(1024), Unchanged(1024)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder in Hugging Face layout, resolved; ``base`` is set for a PEFT adapter."""

    path: Path
    source: str
    """``local:`` and the name below its root: safe to publish, no path of the machine."""
    config: dict[str, Any]
    base: "Checkpoint | None" = None

    @property
    def text_config(self) -> dict[str, Any]:
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def architecture(self) -> str:
        names = self.config.get("architectures") or []
        return str(names[0]) if names else ""

    @property
    def n_layers(self) -> int | None:
        return _first_int(self.text_config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")

    @property
    def hidden_size(self) -> int | None:
        return _first_int(self.text_config, "hidden_size", "n_embd", "d_model")

    @property
    def vocab_size(self) -> int | None:
        return _first_int(self.text_config, "vocab_size")

    @property
    def max_positions(self) -> int | None:
        return _first_int(self.text_config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length")

    def weight_files(self) -> list[Path]:
        """The safetensors files that hold the weights, in name order."""
        return sorted(path for path in self.path.glob("*.safetensors") if path.is_file())


def _first_int(config: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def resolve_reference(reference: str, *, roots: Sequence[Path] | None) -> Checkpoint:
    """The checkpoint behind ``local:PATH`` or a bare path.

    With ``roots`` (a server) the path must lie below one of them after symbolic links are followed, and a
    relative path is looked for below each; ``roots=None`` (a command line) allows every readable path.

    Raises ModelReferenceInvalid, ModelPathRefused, ModelNotFound, ConfigInvalid, AdapterInvalid.
    """
    folder, source = _locate(reference, roots)
    if (folder / ADAPTER_CONFIG).is_file():
        return _resolve_adapter(folder, source, roots)
    return Checkpoint(folder, source, _read_config(folder / "config.json", source))


def _locate(reference: str, roots: Sequence[Path] | None) -> tuple[Path, str]:
    if not reference or len(reference) > MAX_REFERENCE or not reference.isprintable():
        raise ModelReferenceInvalid(
            "a model reference is 1 to 1024 printable characters", hint="for example local:my-model"
        )
    scheme, colon, rest = reference.partition(":")
    if not colon:
        scheme, rest = "local", reference
    if scheme != "local" or not rest:
        raise ModelReferenceInvalid(
            f"model source {scheme!r} is not configured here",
            hint="give local:PATH of a folder with safetensors weights",
        )
    if roots is None:
        folder = _resolved(Path(rest).expanduser())
        if folder is None or not folder.is_dir():
            raise ModelNotFound(f"no checkpoint folder at {rest}", hint="check the path")
        return folder, f"local:{folder.name}"
    return _locate_below(rest, roots)


def _locate_below(rest: str, roots: Sequence[Path]) -> tuple[Path, str]:
    # What lies outside the roots is refused without looking, so that an answer never tells whether it exists.
    inside = False
    for root in (Path(root).resolve() for root in roots):
        target = _resolved(root / rest)
        if target is None:
            inside = True
            continue
        if target == root or not target.is_relative_to(root):
            continue
        inside = True
        if target.is_dir():
            return target, f"local:{target.relative_to(root).as_posix()}"
    if inside:
        raise ModelNotFound(
            f"no checkpoint folder local:{rest} below the model roots", hint="check the name, or register the model"
        )
    raise ModelPathRefused(
        f"local:{rest} does not lie below the model roots", hint="use a path relative to a model root"
    )


def _resolved(path: Path) -> Path | None:
    """``path`` without symlinks and ``..``; None for what no file system can hold (too long a name, a link loop)."""
    try:
        found = path.resolve()
        found.is_dir()
    except (OSError, RuntimeError, ValueError):
        return None
    return found


def _read_config(path: Path, source: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigInvalid(f"{source} has no {path.name}", hint="save the model with save_pretrained()") from error
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"{source}: {path.name} is not readable JSON ({error})") from error
    if not isinstance(config, dict):
        raise ConfigInvalid(f"{source}: {path.name} is not a JSON object")
    return config


def _resolve_adapter(folder: Path, source: str, roots: Sequence[Path] | None) -> Checkpoint:
    adapter = _read_config(folder / ADAPTER_CONFIG, source)
    base = adapter.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise AdapterInvalid(f"{source}: {ADAPTER_CONFIG} names no base model", hint="set base_model_name_or_path")
    beside = (folder / base).resolve()
    try:
        if roots is None:
            resolved = resolve_reference(str(beside) if beside.is_dir() else base, roots=None)
        else:
            resolved = resolve_reference(f"local:{beside}", roots=roots)
    except (ModelNotFound, ModelPathRefused, ModelReferenceInvalid) as error:
        raise AdapterInvalid(
            f"{source}: its base model {base!r} was not found",
            hint="put the base beside the adapter, below the same model root",
        ) from error
    if resolved.base is not None:
        raise AdapterInvalid(f"{source}: its base is itself an adapter", hint="merge the adapters first")
    return Checkpoint(folder, source, resolved.config, base=resolved)


def inspect(checkpoint: Checkpoint) -> None:
    """Everything that a second of looking at files can tell; returns silently or raises. What passed is not read again
    by this process until a file of it changes.

    Raises ArchitectureUnsupported, ConfigInvalid, PickleWeightsRefused, WeightsMissing, WeightsCorrupt,
    NonFiniteWeights, TokenizerInvalid.
    """
    if checkpoint.base is not None:
        inspect(checkpoint.base)
    known = (checkpoint.base is None, json.dumps(checkpoint.config, sort_keys=True))
    folder = checkpoint.path
    _sound.check(known, lambda: [folder, *sorted(folder.glob("*"))], lambda: _inspect_files(checkpoint))


def _inspect_files(checkpoint: Checkpoint) -> None:
    if checkpoint.base is None:
        _check_architecture(checkpoint)
        _read_tokenizer(checkpoint)
    files = _check_weight_files(checkpoint)
    headers = {file: read_header(file, checkpoint.source) for file in files}
    _check_index(checkpoint, headers)
    if sum(file.stat().st_size for file in files) <= SCAN_BYTES:
        for file, header in headers.items():
            scan_non_finite(file, header, checkpoint.source)


def _check_architecture(checkpoint: Checkpoint) -> None:
    config, source = checkpoint.config, checkpoint.source
    if not isinstance(config.get("model_type"), str):
        raise ConfigInvalid(f"{source}: config.json names no model_type", hint="save the model with save_pretrained()")
    if config.get("is_encoder_decoder"):
        raise ArchitectureUnsupported(
            f"{source} is an encoder-decoder ({checkpoint.architecture or config['model_type']})",
            hint="only decoder-only language models have a depth trace",
        )
    if not CAUSAL.search(checkpoint.architecture):
        raise ArchitectureUnsupported(
            f"{source}: architecture {checkpoint.architecture or 'unnamed'!r} is not a causal language model",
            hint="the first entry of config.json 'architectures' must end in ForCausalLM or LMHeadModel",
        )
    for name in ("n_layers", "hidden_size", "vocab_size"):
        value = getattr(checkpoint, name)
        if value is None or value < 1:
            raise ConfigInvalid(f"{source}: config.json gives no usable {name}")


def _tokenizer_file(checkpoint: Checkpoint) -> Path:
    return (checkpoint.base or checkpoint).path / "tokenizer.json"


def _read_tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        tokenizer = json.loads(_tokenizer_file(checkpoint).read_text(encoding="utf-8"))
        if isinstance(tokenizer, dict) and isinstance(tokenizer.get("model"), dict):
            return tokenizer
        problem = "it is not a tokenizer"
    except FileNotFoundError:
        problem = "it is missing"
    except (OSError, ValueError) as error:
        problem = str(error)
    raise TokenizerInvalid(
        f"{checkpoint.source}: tokenizer.json cannot be used ({problem})", hint="save the fast tokenizer with the model"
    )


def _check_weight_files(checkpoint: Checkpoint) -> list[Path]:
    files = checkpoint.weight_files()
    if files:
        return files
    pickles = sorted(p.name for p in checkpoint.path.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise PickleWeightsRefused(
            f"{checkpoint.source} holds only pickle weights ({pickles[0]}), which can run code when read",
            hint="convert them where you trust them: load the model and call save_pretrained(safe_serialization=True)",
        )
    raise WeightsMissing(
        f"{checkpoint.source} holds no *.safetensors file", hint="save the model with save_pretrained()"
    )


def _check_index(checkpoint: Checkpoint, headers: dict[Path, dict[str, Any]]) -> None:
    path = checkpoint.path / "model.safetensors.index.json"
    if not path.is_file():
        return
    weight_map = _read_config(path, checkpoint.source).get("weight_map")
    if not isinstance(weight_map, dict):
        raise WeightsCorrupt(f"{checkpoint.source}: {path.name} has no weight_map")
    by_name = {file.name: header for file, header in headers.items()}
    for tensor, shard in weight_map.items():
        if shard not in by_name:
            raise WeightsMissing(f"{checkpoint.source}: shard {shard} is missing", hint="copy all shards")
        if tensor not in by_name[shard]:
            raise WeightsCorrupt(
                f"{checkpoint.source}: shard {shard} lacks tensor {tensor}", hint="copy the file again"
            )


def snapshot_digest(checkpoint: Checkpoint) -> str:
    """Cheap identity of the files as they lie there (names, sizes, times, safetensors headers): equal
    snapshots mean equal content for every purpose but forgery. See :func:`weights_digest` for content."""
    entries = []
    for file in _identity_files(checkpoint):
        status = file.stat()
        entries.append([str(file), status.st_size, status.st_mtime_ns])
    base = snapshot_digest(checkpoint.base) if checkpoint.base else None
    return digest_of({"files": entries, "base": base})


def weights_digest(
    checkpoint: Checkpoint, *, progress: ProgressSink = ignore_progress, cancelled: CancelCheck = never_cancelled
) -> str:
    """sha256 over name and content of weights, config, tokenizer and adapter files; independent of place. Raises
    Cancelled."""
    return _content_digest(checkpoint, _Hashing(checkpoint, progress, cancelled))


def _content_digest(checkpoint: Checkpoint, hashing: "_Hashing") -> str:
    entries = {file.name: hashing.sha256(file) for file in _identity_files(checkpoint)}
    base = _content_digest(checkpoint.base, hashing) if checkpoint.base else None
    return digest_of({"files": entries, "base": base})


class _Hashing:
    """Reads files in pieces, so that it can say how far it is and stop in between."""

    def __init__(self, checkpoint: Checkpoint, progress: ProgressSink, cancelled: CancelCheck) -> None:
        parts = [checkpoint, *([checkpoint.base] if checkpoint.base else [])]
        self._total = max(1, sum(file.stat().st_size for part in parts for file in _identity_files(part)))
        self._done = 0
        self._progress, self._cancelled = progress, cancelled

    def sha256(self, path: Path) -> str:
        hasher = hashlib.sha256()
        with path.open("rb") as stream:
            while piece := stream.read(HASH_PIECE):
                if self._cancelled():
                    raise Cancelled("cancelled in phase hash")
                hasher.update(piece)
                self._done += len(piece)
                # Of the whole run this is hardly anything.
                self._progress(Progress("hash", self._done, self._total, 0.0))
        return hasher.hexdigest()


def _identity_files(checkpoint: Checkpoint) -> list[Path]:
    named = [checkpoint.path / name for name in (*IDENTITY_FILES, ADAPTER_CONFIG)]
    return [*checkpoint.weight_files(), *(path for path in named if path.is_file())]


def check_pair(reference: Checkpoint, candidate: Checkpoint) -> None:
    """Whether two checkpoints can be compared; raises PairMismatch or TokenizerMismatch."""
    for name in ("n_layers", "hidden_size", "vocab_size"):
        ours, theirs = getattr(reference, name), getattr(candidate, name)
        if ours != theirs:
            raise PairMismatch(
                f"{name} differs: {reference.source} has {ours}, {candidate.source} has {theirs}",
                hint="compare checkpoints of one ancestor",
            )
    files = [_tokenizer_file(reference), _tokenizer_file(candidate)]
    _same_tokenizer.check(None, lambda: files, lambda: _compare_tokenizers(reference, candidate))


def _compare_tokenizers(reference: Checkpoint, candidate: Checkpoint) -> None:
    mine, other = _read_tokenizer(reference), _read_tokenizer(candidate)
    if mine == other:
        return
    parts = [part for part in sorted({*mine, *other}) if mine.get(part) != other.get(part)]
    raise TokenizerMismatch(
        f"tokenizer.json of {reference.source} and {candidate.source} differ in: {', '.join(parts)}",
        hint="both checkpoints must read identical token ids",
    )
