"""Identities of a checkpoint: of its content, of its content between machines, and of its files on this host.

``weights_digest`` names content and takes reading all of it. The other two are cheap. ``content_snapshot`` tells a
worker that it is about to read what was submitted, wherever the files lie there; ``host_identity`` tells, on one host,
that files have not been touched since they were last read. Neither stands for content that nobody has read.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.copies import Copy
from spinal.checkpoints.files import file_error, most_bytes
from spinal.checkpoints.held import Held, Stamp, hold, stamp_of
from spinal.checkpoints.opening import open_regular, read_regular
from spinal.checkpoints.tensors import MOST_HEADER
from spinal.checkpoints.unchanged import Remembered
from spinal.documents.canonical import PYTHON_JSON, digest_of
from spinal.documents.files import FileDigests
from spinal.errors import ModelChanged, WeightsDigestMismatch
from spinal.progress import CancelCheck, ProgressSink, ignore_progress, never_cancelled

SAMPLES = 16
SAMPLE_BYTES = 64 * 1024

_known: Remembered[str] = Remembered(1024)


def weights_digest(
    checkpoint: Checkpoint, *, progress: ProgressSink = ignore_progress, cancelled: CancelCheck = never_cancelled
) -> str:
    """sha256 over name and content of weights, config, tokenizer and adapter files; independent of place. Raises
    Cancelled, and what :func:`spinal.checkpoints.held.hold` raises."""
    with hold(checkpoint) as held:
        found = held.digest(progress=progress, cancelled=cancelled)
        held.require_unchanged()
        return found


def declared_digest(checkpoint: Checkpoint) -> str | None:
    """:func:`weights_digest` as it follows from what is known of every file's content without reading its weights: as
    their source declares it, or as they were read when they were fetched. None where that is not known of all."""
    base = None
    if checkpoint.base is not None:
        base = declared_digest(checkpoint.base)
        if base is None:
            return None
    known = {} if checkpoint.copy is None else checkpoint.copy.sha256
    if any(name not in known for name in checkpoint.files.names):
        return None
    return FileDigests(files={name: known[name] for name in checkpoint.files.names}, base=base).weights_digest


def require_expected(source: str, found: str, expected: str | None) -> None:
    """Raise WeightsDigestMismatch where a caller expects another weights digest of ``source`` than was found."""
    if expected is not None and expected != found:
        raise WeightsDigestMismatch(
            f"{source} has weights digest {found}, expected was {expected}",
            hint="is it the checkpoint that you mean? Submit with the digest of the one to be judged",
        )


def content_snapshot(checkpoint: Checkpoint) -> str:
    """Cheap identity between machines: names, sizes, sha256 of all files but the weights, those that are only compared
    included; of the weights the headers and blocks at :data:`SAMPLES` places, or where they live elsewhere what their
    source says of them. The same for copies at other places, with other times. Raises ModelChanged where a file is
    gone, and a file's error."""
    return digest_of([_snapshot(part) for part in checkpoint.parts])


def host_identity(checkpoint: Checkpoint) -> str:
    """Of the files on this host: name, device, inode, size, time of change of the content and of anything. Of a part
    that lives elsewhere, which hosts have copies of: what its source says of the files. Raises ModelChanged where a
    file is gone."""
    parts = list(checkpoint.parts)
    if all(part.copy is None for part in parts):
        return identity_of_stamps(
            tuple(
                (f"{depth}/{name}", _stamp(part, name)) for depth, part in enumerate(parts) for name in part.files.names
            )
        )
    return digest_of(
        [
            _snapshot(part)
            if part.copy is not None
            else identity_of_stamps(tuple((name, _stamp(part, name)) for name in part.files.names))
            for part in parts
        ]
    )


def held_identity(held: Held) -> str:
    """:func:`host_identity` of files as they were opened."""
    return identity_of_stamps(held.stamps())


def identity_of_stamps(stamps: tuple[tuple[str, Stamp], ...]) -> str:
    # Nanoseconds are more than RFC 8785 lets a number hold.
    return digest_of([[name, [str(number) for number in stamp]] for name, stamp in stamps])


def former_snapshot(checkpoint: Checkpoint) -> str:
    """What the release before told snapshots of the files apart by, for work that it accepted."""
    entries: list[list[Any]] = []
    for path in _former_files(checkpoint.path):
        status = path.stat()
        entries.append([str(path), status.st_size, status.st_mtime_ns])
    base = former_snapshot(checkpoint.base) if checkpoint.base else None
    return digest_of({"files": entries, "base": base}, PYTHON_JSON)


def _former_files(folder: Path) -> list[Path]:
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "adapter_config.json")
    weights = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    return [*weights, *(folder / name for name in names if (folder / name).is_file())]


def _snapshot(checkpoint: Checkpoint) -> str:
    """Of one folder; read again when the host says that a file changed."""
    if checkpoint.copy is not None:
        return _listed_snapshot(checkpoint, checkpoint.copy)
    paths = [checkpoint.path / name for name in (*checkpoint.files.names, *checkpoint.files.beside)]
    known = (checkpoint.source, checkpoint.files, checkpoint.roots)
    return _known.value(known, lambda: paths, lambda: _read_snapshot(checkpoint))


def _listed_snapshot(checkpoint: Checkpoint, copy: Copy) -> str:
    """Of files that live elsewhere: as their source lists them, with the content of those that are read ahead of the
    weights, and the headers of weights whose content it does not declare."""
    files = checkpoint.files
    listed = {entry.name: entry for entry in copy.listing or ()}
    read = (*files.settings, *files.beside)
    settings = {name: copy.sha256.get(name) or _sha256_of_settings(checkpoint, name) for name in read}
    weights, vague = {}, False
    for name in files.weights:
        entry = listed[name]
        vague = vague or entry.content is None
        said = entry.content or _sha256_of_header(checkpoint, name)
        weights[name] = [str(entry.size), said, entry.tag]
    # Where content is declared, another revision with the same files is the same.
    return digest_of({"settings": settings, "listed": weights, "revision": copy.revision if vague else None})


def _sha256_of_header(checkpoint: Checkpoint, name: str) -> str:
    descriptor = open_regular(checkpoint.path / name, checkpoint.source, file_error(name), checkpoint.roots)
    try:
        length = min(int.from_bytes(os.pread(descriptor, 8, 0), "little"), MOST_HEADER)
        return hashlib.sha256(os.pread(descriptor, 8 + length, 0)).hexdigest()
    finally:
        os.close(descriptor)


def _read_snapshot(checkpoint: Checkpoint) -> str:
    try:
        read = (*checkpoint.files.settings, *checkpoint.files.beside)
        settings = {name: _sha256_of_settings(checkpoint, name) for name in read}
        weights = {name: _sampled(checkpoint, name) for name in checkpoint.files.weights}
    except FileNotFoundError as error:
        raise _gone(checkpoint, error) from error
    return digest_of({"settings": settings, "weights": weights})


def _sha256_of_settings(checkpoint: Checkpoint, name: str) -> str:
    make = file_error(name)
    raw = read_regular(
        checkpoint.path / name, checkpoint.source, make, most_bytes=most_bytes(name), roots=checkpoint.roots
    )
    return hashlib.sha256(raw).hexdigest()


def _sampled(checkpoint: Checkpoint, name: str) -> list[str]:
    """Size, and a digest of the header and of blocks evenly spread from the first byte behind it to the last."""
    descriptor = open_regular(checkpoint.path / name, checkpoint.source, file_error(name), checkpoint.roots)
    try:
        size = os.fstat(descriptor).st_size
        length = min(int.from_bytes(os.pread(descriptor, 8, 0), "little"), MOST_HEADER)
        hasher = hashlib.sha256(os.pread(descriptor, 8 + length, 0))
        first, last = min(8 + length, size), max(0, size - SAMPLE_BYTES)
        for index in range(SAMPLES):
            at = first + (max(0, last - first) * index) // (SAMPLES - 1)
            hasher.update(os.pread(descriptor, SAMPLE_BYTES, at))
    finally:
        os.close(descriptor)
    return [str(size), hasher.hexdigest()]


def _stamp(checkpoint: Checkpoint, name: str) -> Stamp:
    try:
        return stamp_of((checkpoint.path / name).stat())
    except FileNotFoundError as error:
        raise _gone(checkpoint, error) from error


def _gone(checkpoint: Checkpoint, error: OSError) -> ModelChanged:
    name = Path(str(error.filename)).name
    return ModelChanged(
        f"{name} of {checkpoint.source} is not there any more", hint="submit again when its files are final"
    )
