"""From a reference to a checkpoint: the source pins it, an adapter brings its base."""

from collections.abc import Sequence
from pathlib import Path

from spinal.checkpoints.checkpoint import ADAPTER_CONFIG, Checkpoint
from spinal.checkpoints.files import read_config
from spinal.checkpoints.sources import SOURCES, Pinned, Source, reference_forms
from spinal.errors import (
    AdapterInvalid,
    ModelNotFound,
    ModelPathRefused,
    ModelReferenceInvalid,
)

MAX_REFERENCE = 1024


def resolve_reference(reference: str, *, roots: Sequence[Path] | None) -> Checkpoint:
    """The checkpoint behind ``scheme:path`` of a known source, or behind a bare path, which is ``local``.

    With ``roots`` (a server) the path must lie below one of them after symbolic links are followed, and a
    relative path is looked for below each; ``roots=None`` (a command line) allows every readable path.

    Raises ModelReferenceInvalid, ModelPathRefused, ModelNotFound, ConfigInvalid, AdapterInvalid.
    """
    source, path = _source_of(reference)
    pinned = source.pin(path, roots)
    folder = source.fetch(pinned)
    if (folder / ADAPTER_CONFIG).is_file():
        return _resolve_adapter(folder, pinned, roots)
    return Checkpoint(folder, pinned.name, read_config(folder / "config.json", pinned.name), pinned.revision)


def _source_of(reference: str) -> tuple[Source, str]:
    """The source that a reference names, and what it says to it."""
    if not reference or len(reference) > MAX_REFERENCE or not reference.isprintable():
        raise ModelReferenceInvalid(
            "a model reference is 1 to 1024 printable characters", hint="for example local:my-model"
        )
    scheme, colon, path = reference.partition(":")
    if not colon:
        scheme, path = "local", reference
    if scheme not in SOURCES:
        raise ModelReferenceInvalid(
            f"model source {scheme!r} is not configured here",
            hint=f"give {reference_forms()} of a folder with safetensors weights",
        )
    return SOURCES[scheme], path


def _resolve_adapter(folder: Path, pinned: Pinned, roots: Sequence[Path] | None) -> Checkpoint:
    source = pinned.name
    adapter = read_config(folder / ADAPTER_CONFIG, source)
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
    return Checkpoint(folder, source, resolved.config, pinned.revision, base=resolved)
