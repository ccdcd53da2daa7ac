"""The folder that keeps what was fetched, by content, for every process of this host.

``blobs`` whole verified files by sha256, ``headers`` sparse stubs of weights files, ``names`` what the names of sources
stand for, ``parts`` files on their way, ``claims`` who uses or fetches what, ``uses`` when something was used last,
``locks``, and ``new`` what is written in one go and then gets its name. A file in ``blobs`` or ``headers`` is never
written, touched or linked once it is in place: what its host says of it (:mod:`spinal.checkpoints.identity`) stays as
it is until it is removed.
"""

import json
import os
import re
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path

from spinal.checkpoints.sources.base import Listed, Pinned
from spinal.errors import StorageUnavailable, UsageError
from spinal.errors.faults import shown

SHA256, GIT_SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
AREAS = BLOBS, HEADERS, NAMES, PARTS, CLAIMS, USES, LOCKS, NEW = (
    "blobs", "headers", "names", "parts", "claims", "uses", "locks", "new",
)  # fmt: skip
MOST_RECORD = 4096
FUTURE_S = 60.0
"""A record from further ahead than this was written under another clock."""
MAKE_IT_OURS = "give a folder of this user's own with mode 700"


class ModelStore:
    """One folder, shared by many processes and threads; cheap to make.

    ``most_bytes`` bounds what is kept and fetched together; None leaves that to the disk. For ``remember_s`` seconds a
    file whose source gives neither digest nor tag is believed to be the one that was read under its name.
    """

    def __init__(self, folder: Path, *, most_bytes: int | None = None, remember_s: float = 7 * 86400.0) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.most_bytes = most_bytes
        self.remember_s = remember_s

    def known(self, pinned: Pinned, listed: Listed) -> str | None:
        """sha256 of a file's content where the source declares it or the file was read before, whether the bytes are
        still here or not. Raises UsageError, StorageUnavailable."""
        if listed.sha256 is not None:
            return listed.sha256 if SHA256.fullmatch(listed.sha256) else None
        self.prepare()
        name = key_name(pinned, listed)
        record = self._record(name)
        if record is None:
            return None
        sha256, size, at = record
        nameless = listed.content is None and listed.tag is None
        if nameless and not self.is_recent(at):
            self.forget_name(name)
            return None
        return sha256 if size == listed.size else None

    def has(self, sha256: str) -> bool:
        """Whether the file with that content is here now. Raises UsageError, StorageUnavailable."""
        self.prepare()
        return SHA256.fullmatch(sha256) is not None and self.blob(sha256).is_file()

    def prepare(self) -> None:
        """Make the folder where it is not there yet. Raises UsageError where another user can write to it,
        StorageUnavailable where it cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = self.folder.lstat()
        except OSError as error:
            raise self.unavailable(error) from error
        why = None
        if not stat.S_ISDIR(status.st_mode):
            why = "is a link or no folder"
        elif status.st_uid != os.geteuid():
            why = "belongs to another user"
        elif status.st_mode & 0o022:
            why = "can be written by others"
        if why is not None:
            raise UsageError(f"the model store {shown(self.folder.name)} {why}", hint=MAKE_IT_OURS)
        if not (self.folder / NEW).is_dir():
            try:
                for area in AREAS:
                    (self.folder / area).mkdir(exist_ok=True, mode=0o700)
            except OSError as error:
                raise self.unavailable(error) from error

    def unavailable(self, error: OSError) -> StorageUnavailable:
        """The error of a store whose disk or folder fails."""
        return StorageUnavailable(
            f"the model store {shown(self.folder.name)} cannot be used ({error.strerror or type(error).__name__})",
            hint="free space on its disk, or give the worker's user a folder of its own",
        )

    @property
    def lock(self) -> Path:
        """Held for a moment by whoever changes what is in use or in place."""
        return self.folder / LOCKS / "store"

    def blob(self, sha256: str) -> Path:
        return self.folder / BLOBS / sha256[:2] / sha256

    def header(self, name: str) -> Path:
        return self.folder / HEADERS / name[-2:] / name

    def part(self, name: str) -> Path:
        return self.folder / PARTS / name

    def fetch_lock(self, name: str) -> Path:
        """Held by whoever fetches the file of that name."""
        return self.folder / LOCKS / f"fetch-{name}"

    def new_path(self) -> Path:
        """A name that nobody has, for a file that gets its own once it is written."""
        return self.folder / NEW / uuid.uuid4().hex

    def stamp(self, path: Path) -> Path:
        """Whose times say when the file at ``path`` was used last."""
        return self.folder / USES / f"{path.parent.parent.name}-{path.name}"

    def content_of(self, name: str) -> str | None:
        """sha256 of what a :func:`key_name` stands for, as far as that is known."""
        kind, _, digest = name.partition("-")
        if kind == "sha256":
            return digest
        record = self._record(name)
        return None if record is None else record[0]

    def learn(self, name: str, sha256: str, size: int) -> None:
        """Keep what the content of a :func:`key_name` was found to be."""
        record = {"sha256": sha256, "size": str(size), "at": time.time()}
        target = self._name(name)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        written = self.new_path()
        written.touch(mode=0o600)
        written.write_text(json.dumps(record))
        os.replace(written, target)

    def forget_name(self, name: str) -> None:
        with suppress(OSError):
            self._name(name).unlink()

    def is_recent(self, at: float) -> bool:
        return -FUTURE_S <= time.time() - at < self.remember_s

    def _name(self, name: str) -> Path:
        return self.folder / NAMES / name[-2:] / name

    def _record(self, name: str) -> tuple[str, int, float] | None:
        """Content, size, and when that was found out. What a power cut left half written is not known."""
        try:
            with self._name(name).open("rb") as stream:
                found = json.loads(stream.read(MOST_RECORD))
            sha256, size, at = str(found["sha256"]), int(found["size"]), float(found["at"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return (sha256, size, at) if SHA256.fullmatch(sha256) else None


def key_name(pinned: Pinned, listed: Listed) -> str:
    """What a file is called in the store before its content is there: by its content where that is declared, else by
    its place."""
    if listed.sha256 is not None:
        return f"sha256-{listed.sha256}"
    return f"git-{listed.git_sha1}" if listed.git_sha1 is not None else place_name(pinned, listed)


def place_name(pinned: Pinned, listed: Listed) -> str:
    """A file by its place alone, whatever is declared of its content."""
    return f"at-{pinned.key_of(listed)}"


def stub_name(pinned: Pinned, listed: Listed) -> str:
    """The header of a file as it was read at its place, for the content that was declared then."""
    declared = "" if listed.content is None else "-" + listed.content.partition(":")[2]
    return place_name(pinned, listed) + declared
