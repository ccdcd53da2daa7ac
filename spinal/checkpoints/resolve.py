"""From a reference to a checkpoint: the source pins it, an adapter brings its base."""

import os
from collections.abc import Sequence
from pathlib import Path

from spinal.checkpoints.adapter_base import require_fit
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.configuration import as_meant
from spinal.checkpoints.files import ADAPTER_CONFIG, CONFIG, list_files, list_tokenizer_files, read_config
from spinal.checkpoints.sources import SOURCES, Pinned, Source, reference_forms
from spinal.checkpoints.tokenizer import known_ids
from spinal.errors import (
    AdapterInvalid,
    ModelNotFound,
    ModelPathRefused,
    ModelReferenceInvalid,
)
from spinal.errors.faults import shown

MAX_REFERENCE = 1024


def resolve_reference(
    reference: str, *, roots: Sequence[Path] | None, base: Checkpoint | None = None, instead: Checkpoint | None = None
) -> Checkpoint:
    """The checkpoint behind ``scheme:path`` of a known source, or behind a bare path, which is ``local``.

    With ``roots`` (a server) the path must lie below one of them after symbolic links are followed, and a
    relative path is looked for below each; ``roots=None`` (a command line) allows every readable path. The files of the
    checkpoint are listed here, once; the configuration is read.

    An adapter is measured on ``base`` where one is given, whatever its configuration names; on ``instead`` where what
    it names is not found. Its tensors have to fit the shapes there.

    Raises ModelReferenceInvalid, ModelPathRefused, ModelNotFound, ConfigInvalid, AdapterInvalid, PickleWeightsRefused,
    WeightsMissing, WeightsCorrupt.
    """
    return _resolved(reference, roots, bases=(base, instead))


def resolve_tokenizer(reference: str, *, roots: Sequence[Path] | None) -> Checkpoint:
    """A folder of which only the tokenizer is read, whatever else it holds. Raises ModelReferenceInvalid,
    ModelPathRefused, ModelNotFound, TokenizerInvalid."""
    source, path = _source_of(reference)
    pinned = source.pin(path, roots)
    folder = source.fetch(pinned)
    found = Checkpoint(
        folder, pinned.name, {}, pinned.revision, files=list_tokenizer_files(folder), roots=_allowed(roots, folder)
    )
    known_ids(found)
    return found


def _resolved(
    reference: str,
    roots: Sequence[Path] | None,
    adapter: str | None = None,
    bases: tuple[Checkpoint | None, Checkpoint | None] = (None, None),
) -> Checkpoint:
    """The checkpoint; with ``adapter``, the name of one whose base is looked for, an adapter is refused. ``bases`` are
    the one that is given, and the one that may take the place of a base that is not found."""
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
        raise _based_on_an_adapter(adapter)
    return _resolve_adapter(folder, pinned, roots, *bases)


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


def _resolve_adapter(
    folder: Path, pinned: Pinned, roots: Sequence[Path] | None, base: Checkpoint | None, instead: Checkpoint | None
) -> Checkpoint:
    source = pinned.name
    allowed = _allowed(roots, folder)
    named = read_config(folder, ADAPTER_CONFIG, source, allowed).get("base_model_name_or_path")
    files = list_files(folder, source, allowed, adapter=True)
    found, other = base, True
    if found is None:
        try:
            found, other = _named_base(folder, source, named, roots), False
        except (ModelNotFound, ModelPathRefused, ModelReferenceInvalid) as error:
            if instead is None or instead.base is not None:
                raise AdapterInvalid(
                    f"{source}: its base model {shown(str(named))!r} was not found",
                    hint="put the base beside the adapter, below the same model root, compare with the base itself, "
                    "or, on the command line, say where it lies: --base DIR",
                ) from error
            found = instead
    if found.base is not None:
        raise _based_on_an_adapter(source)
    made = Checkpoint(
        folder,
        source,
        found.config,
        pinned.revision,
        base=found,
        base_named=str(named) if other else None,
        files=files,
        roots=allowed,
    )
    if other:
        require_fit(made, found)
    return made


def _based_on_an_adapter(source: str) -> AdapterInvalid:
    return AdapterInvalid(f"{source}: its base is itself an adapter", hint="merge the adapters first")


def _named_base(folder: Path, source: str, named: object, roots: Sequence[Path] | None) -> Checkpoint:
    """The base that an adapter's configuration names."""
    if not isinstance(named, str) or not named:
        raise AdapterInvalid(f"{source}: {ADAPTER_CONFIG} names no base model", hint="set base_model_name_or_path")
    return _resolved(_beside(folder, named, roots), roots, source)


def _beside(folder: Path, base: str, roots: Sequence[Path] | None) -> str:
    """The reference of a base that an adapter in ``folder`` names."""
    try:
        beside = (folder / base).resolve()
        found = beside.is_dir()
    except (OSError, ValueError, RuntimeError):
        # No name that a file system can hold.
        return base
    return f"local:{beside}" if roots is not None or found else base
