"""From a reference to a checkpoint: the source pins it, an adapter brings its base."""

from collections.abc import Sequence
from pathlib import Path

from spinal.checkpoints.adapter import require_fit
from spinal.checkpoints.checkpoint import ADAPTER_CONFIG, Checkpoint
from spinal.checkpoints.files import read_config
from spinal.checkpoints.sources import SOURCES, Pinned, Source, reference_forms
from spinal.checkpoints.tokenizer import read_tokenizer
from spinal.errors import (
    AdapterInvalid,
    ModelNotFound,
    ModelPathRefused,
    ModelReferenceInvalid,
)

MAX_REFERENCE = 1024


def resolve_reference(
    reference: str, *, roots: Sequence[Path] | None, base: Checkpoint | None = None, instead: Checkpoint | None = None
) -> Checkpoint:
    """The checkpoint behind ``scheme:path`` of a known source, or behind a bare path, which is ``local``.

    With ``roots`` (a server) the path must lie below one of them after symbolic links are followed, and a
    relative path is looked for below each; ``roots=None`` (a command line) allows every readable path.

    An adapter is measured on ``base`` where one is given, whatever its configuration names; on ``instead`` where what
    it names is not found and its tensors fit the shapes there. A remark says so.

    Raises ModelReferenceInvalid, ModelPathRefused, ModelNotFound, ConfigInvalid, AdapterInvalid.
    """
    source, path = _source_of(reference)
    pinned = source.pin(path, roots)
    folder = source.fetch(pinned)
    if (folder / ADAPTER_CONFIG).is_file():
        return _resolve_adapter(folder, pinned, roots, base, instead)
    return Checkpoint(folder, pinned.name, read_config(folder / "config.json", pinned.name), pinned.revision)


def resolve_tokenizer(reference: str, *, roots: Sequence[Path] | None) -> Checkpoint:
    """A folder of which only the tokenizer is used, whatever else it holds. Raises ModelReferenceInvalid,
    ModelPathRefused, ModelNotFound, TokenizerInvalid."""
    source, path = _source_of(reference)
    pinned = source.pin(path, roots)
    found = Checkpoint(source.fetch(pinned), pinned.name, {}, pinned.revision)
    read_tokenizer(found)
    return found


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
    named = read_config(folder / ADAPTER_CONFIG, source).get("base_model_name_or_path")
    if base is None and (not isinstance(named, str) or not named):
        raise AdapterInvalid(f"{source}: {ADAPTER_CONFIG} names no base model", hint="set base_model_name_or_path")
    if base is not None:
        found, remarks = base, (f"measured on the base that was given; its configuration names {named!r}",)
        require_fit(folder, source, base)
    else:
        found, remarks = _named_base(folder, source, str(named), roots, instead)
    if found.base is not None:
        raise AdapterInvalid(f"{source}: its base is itself an adapter", hint="merge the adapters first")
    return Checkpoint(folder, source, found.config, pinned.revision, base=found, remarks=remarks)


def _named_base(
    folder: Path, source: str, named: str, roots: Sequence[Path] | None, instead: Checkpoint | None
) -> tuple[Checkpoint, tuple[str, ...]]:
    """The base that an adapter's configuration names, or ``instead`` of it where it is not found and that one fits."""
    beside = (folder / named).resolve()
    try:
        if roots is None:
            return resolve_reference(str(beside) if beside.is_dir() else named, roots=None), ()
        return resolve_reference(f"local:{beside}", roots=roots), ()
    except (ModelNotFound, ModelPathRefused, ModelReferenceInvalid) as error:
        if instead is None or instead.base is not None:
            raise AdapterInvalid(
                f"{source}: its base model {named!r} was not found",
                hint="put the base beside the adapter, below the same model root, or say where it lies: --base DIR",
            ) from error
    require_fit(folder, source, instead, f"its base model {named!r} was not found, and ")
    return instead, (f"its base {named!r} was not found: measured on the reference, whose shapes fit",)
