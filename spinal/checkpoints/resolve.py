"""From a reference to a checkpoint: the source pins it, an adapter brings its base."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinal.checkpoints.adapter_base import require_fit
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.configuration import as_meant
from spinal.checkpoints.copies import NO_COPIES, Copies, Copy
from spinal.checkpoints.files import ADAPTER_CONFIG, CONFIG, list_files, list_tokenizer_files, read_config
from spinal.checkpoints.sources import SOURCES
from spinal.checkpoints.sources.reach import Reach, is_remote
from spinal.checkpoints.tokenizer import known_ids
from spinal.errors import (
    AdapterInvalid,
    ModelAccessRefused,
    ModelNotFound,
    ModelPathRefused,
    ModelReferenceInvalid,
    SourceRefused,
    SourceUnavailable,
)
from spinal.errors.faults import shown

HUB = "hf"
"""The source of bases that an adapter names by an id of the hub."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
NOT_THERE = (ModelNotFound, ModelPathRefused, ModelReferenceInvalid, SourceRefused, ModelAccessRefused)
"""What may become of a base that is only named."""


@dataclass(frozen=True)
class _Places:
    """Where checkpoints are looked for."""

    roots: tuple[Path, ...] | None
    copies: Copies
    hub: bool = True
    """Whether a base that an adapter in a folder names, and that is not found in one, is looked for on the hub."""

    def find(self, reference: str, *, tokenizer: bool = False) -> Copy:
        """The folder behind a reference: on this host, or a copy. Raises NotAtHand, and what the sources raise."""
        # Before the table of sources is asked: whoever made the copies may know more of them than this process.
        if self.copies.has(reference) or is_remote(reference):
            return self.copies.find(reference, tokenizer=tokenizer)
        pinned = Reach(self.roots).pin(reference)
        return Copy(pinned.name, pinned.revision, Path(pinned.location))

    def allowed(self, found: Copy) -> tuple[Path, ...] | None:
        """Where the files of a checkpoint may lie: there, where its source put them, or below a root."""
        return None if self.roots is None else (*self.roots, *found.places())


def resolve_reference(
    reference: str,
    *,
    roots: Sequence[Path] | None,
    copies: Copies = NO_COPIES,
    base: Checkpoint | None = None,
    instead: Checkpoint | None = None,
    hub: bool = True,
) -> Checkpoint:
    """The checkpoint behind ``scheme:path`` of a known source, or behind a bare path, which is ``local``.

    With ``roots`` (a server) a local path must lie below one of them after symbolic links are followed, and a
    relative path is looked for below each; ``roots=None`` (a command line) allows every readable path. What lives
    elsewhere is found among ``copies``. The files of the checkpoint are listed here, once; the configuration is read.

    An adapter is measured on ``base`` where one is given, whatever its configuration names; on ``instead`` where what
    it names is not found. Its tensors have to fit the shapes there. A base that is named by an id of the hub is looked
    for there: by an adapter that lives elsewhere at once, by one on this host where nothing else is at hand and ``hub``
    is on.

    Raises ModelReferenceInvalid, ModelPathRefused, ModelNotFound, ConfigInvalid, AdapterInvalid, PickleWeightsRefused,
    WeightsMissing, WeightsCorrupt, and for what lives elsewhere what ``copies`` raises.
    """
    places = _Places(None if roots is None else tuple(roots), copies, hub)
    return _resolved(reference, places, bases=(base, instead))


def resolve_tokenizer(reference: str, *, roots: Sequence[Path] | None, copies: Copies = NO_COPIES) -> Checkpoint:
    """A folder of which only the tokenizer is read, whatever else it holds. Raises ModelReferenceInvalid,
    ModelPathRefused, ModelNotFound, TokenizerInvalid, and what ``copies`` raises."""
    places = _Places(None if roots is None else tuple(roots), copies)
    found = places.find(reference, tokenizer=True)
    made = Checkpoint(
        found.folder,
        found.name,
        {},
        found.revision,
        files=list_tokenizer_files(found.folder),
        roots=places.allowed(found),
        copy=_remote(found),
    )
    known_ids(made)
    return made


def _resolved(
    reference: str,
    places: _Places,
    adapter: str | None = None,
    bases: tuple[Checkpoint | None, Checkpoint | None] = (None, None),
) -> Checkpoint:
    """The checkpoint; with ``adapter``, the name of one whose base is looked for, an adapter is refused. ``bases`` are
    the one that is given, and the one that may take the place of a base that is not found."""
    found = places.find(reference)
    allowed = places.allowed(found)
    if not os.path.lexists(found.folder / ADAPTER_CONFIG):
        meant = as_meant(read_config(found.folder, CONFIG, found.name, allowed), found.name)
        files = list_files(found.folder, found.name, allowed, adapter=False)
        return Checkpoint(
            found.folder,
            found.name,
            meant.config,
            found.revision,
            files=files,
            roots=allowed,
            unfollowed=meant.remarks,
            copy=_remote(found),
        )
    if adapter is not None:
        # Also what ends a chain of adapters that leads back to its beginning.
        raise _based_on_an_adapter(adapter)
    return _resolve_adapter(found, places, *bases)


def _remote(found: Copy) -> Copy | None:
    return None if found.listing is None else found


def _resolve_adapter(found: Copy, places: _Places, base: Checkpoint | None, instead: Checkpoint | None) -> Checkpoint:
    source = found.name
    allowed = places.allowed(found)
    settings = read_config(found.folder, ADAPTER_CONFIG, source, allowed)
    files = list_files(found.folder, source, allowed, adapter=True)
    named = settings.get("base_model_name_or_path")
    chosen = base
    if chosen is None:
        try:
            chosen = _named_base(found, settings, places, at_hand=instead is not None)
        except NOT_THERE as error:
            if instead is None or instead.base is not None:
                why = f" ({error.detail})" if isinstance(error, SourceRefused | ModelAccessRefused) else ""
                raise AdapterInvalid(
                    f"{source}: its base model {shown(str(named))!r} was not found{why}",
                    hint="put the base beside the adapter, below the same model root, compare with the base itself, "
                    "or, on the command line, say where it lies: --base DIR",
                ) from error
            chosen = instead
    if chosen.base is not None:
        raise _based_on_an_adapter(source)
    other = chosen is instead if base is None else not _is_named(chosen, named)
    made = Checkpoint(
        found.folder,
        source,
        chosen.config,
        found.revision,
        base=chosen,
        base_named=str(named) if other else None,
        files=files,
        roots=allowed,
        copy=_remote(found),
    )
    if other:
        require_fit(made, chosen)
    return made


def _is_named(base: Checkpoint, named: object) -> bool:
    """Whether a base that was brought from the hub is the one that an adapter names there."""
    return base.copy is not None and base.source.partition("@")[0] == f"{HUB}:{named}"


def _based_on_an_adapter(source: str) -> AdapterInvalid:
    return AdapterInvalid(f"{source}: its base is itself an adapter", hint="merge the adapters first")


def _named_base(found: Copy, settings: Mapping[str, Any], places: _Places, *, at_hand: bool) -> Checkpoint:
    """The base that an adapter's configuration names; ``at_hand`` says that another one is, should it not be found."""
    named = settings.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise AdapterInvalid(f"{found.name}: {ADAPTER_CONFIG} names no base model", hint="set base_model_name_or_path")
    on_hub = _on_hub(named, settings.get("revision"))
    if found.listing is not None:
        if on_hub is None:
            raise ModelNotFound("it is no model of the hub", hint="name a base with --base")
        return _resolved(on_hub, places, found.name)
    try:
        return _resolved(_beside(found.folder, named, places.roots), places, found.name)
    except (ModelNotFound, ModelPathRefused, ModelReferenceInvalid):
        if on_hub is None or at_hand or not places.hub:
            raise
    try:
        return _resolved(on_hub, places, found.name)
    except SourceUnavailable as error:
        if places.roots is not None:
            raise
        # On a machine without a network a base in a folder is what is missing.
        raise ModelAccessRefused(f"neither in a folder nor on the hub: {error.detail}") from error


def _on_hub(named: str, revision: object) -> str | None:
    """The reference of a base that is named by an id of the hub; None where it is not, or there is no such source."""
    if HUB not in SOURCES or not HUB_ID.fullmatch(named):
        return None
    return f"{HUB}:{named}@{revision}" if isinstance(revision, str) and revision else f"{HUB}:{named}"


def _beside(folder: Path, base: str, roots: Sequence[Path] | None) -> str:
    """The reference of a base that an adapter in ``folder`` names."""
    try:
        beside = (folder / base).resolve()
        found = beside.is_dir()
    except (OSError, ValueError, RuntimeError):
        # No name that a file system can hold.
        return base
    return f"local:{beside}" if roots is not None or found else base
