"""From a reference to a checkpoint: the source pins it, an adapter brings its base."""

import os
from collections.abc import Sequence
from pathlib import Path

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.configuration import as_meant
from spinal.checkpoints.files import ADAPTER_CONFIG, CONFIG, list_files, read_config
from spinal.checkpoints.sources import SOURCES, Pinned, Source, reference_forms
from spinal.errors import (
    AdapterInvalid,
    ModelNotFound,
    ModelPathRefused,
    ModelReferenceInvalid,
)
from spinal.errors.faults import shown

MAX_REFERENCE = 1024


def resolve_reference(reference: str, *, roots: Sequence[Path] | None) -> Checkpoint:
    """The checkpoint behind ``scheme:path`` of a known source, or behind a bare path, which is ``local``.

    With ``roots`` (a server) the path must lie below one of them after symbolic links are followed, and a
    relative path is looked for below each; ``roots=None`` (a command line) allows every readable path. The files of the
    checkpoint are listed here, once; the configuration is read.

    Raises ModelReferenceInvalid, ModelPathRefused, ModelNotFound, ConfigInvalid, AdapterInvalid, PickleWeightsRefused,
    WeightsMissing, WeightsCorrupt.
    """
    return _resolved(reference, roots)


def _resolved(reference: str, roots: Sequence[Path] | None, adapter: str | None = None) -> Checkpoint:
    """The checkpoint; with ``adapter``, the name of one whose base is looked for, an adapter is refused."""
    source, path = _source_of(reference)
    pinned = source.pin(path, roots)
    folder = source.fetch(pinned)
    allowed = _allowed(roots, folder)
    if not os.path.lexists(folder / ADAPTER_CONFIG):
        meant = as_meant(read_config(folder, CONFIG, pinned.name, allowed), pinned.name)
        files = list_files(folder, pinned.name, allowed, adapter=False)
        return Checkpoint(
            folder,
            pinned.name,
            meant.config,
            pinned.revision,
            files=files,
            roots=allowed,
            unfollowed=meant.remarks,
        )
    if adapter is not None:
        # Also what ends a chain of adapters that leads back to its beginning.
        raise AdapterInvalid(f"{adapter}: its base is itself an adapter", hint="merge the adapters first")
    return _resolve_adapter(folder, pinned, roots)


def _allowed(roots: Sequence[Path] | None, folder: Path) -> tuple[Path, ...] | None:
    """Where the files of a checkpoint in ``folder`` may lie: there, where its source put them, or below a root."""
    return None if roots is None else (*roots, folder)


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
    allowed = _allowed(roots, folder)
    adapter = read_config(folder, ADAPTER_CONFIG, source, allowed)
    files = list_files(folder, source, allowed, adapter=True)
    base = adapter.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise AdapterInvalid(f"{source}: {ADAPTER_CONFIG} names no base model", hint="set base_model_name_or_path")
    try:
        resolved = _resolved(_beside(folder, base, roots), roots, source)
    except (ModelNotFound, ModelPathRefused, ModelReferenceInvalid) as error:
        raise AdapterInvalid(
            f"{source}: its base model {shown(base)!r} was not found",
            hint="put the base beside the adapter, below the same model root",
        ) from error
    return Checkpoint(folder, source, resolved.config, pinned.revision, base=resolved, files=files, roots=allowed)


def _beside(folder: Path, base: str, roots: Sequence[Path] | None) -> str:
    """The reference of a base that an adapter in ``folder`` names."""
    try:
        beside = (folder / base).resolve()
        found = beside.is_dir()
    except (OSError, ValueError, RuntimeError):
        # No name that a file system can hold.
        return base
    return f"local:{beside}" if roots is not None or found else base
