"""A source that reads from a folder and fails as it is told, in this process and in others.

What it is told, and what it did, are files in a folder of their own (``control``), so that a test rules the sources of
all processes at once. As a command it gathers a checkpoint and holds it: see :func:`start`.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinal.checkpoints.fetching.gather import Want, gather
from spinal.checkpoints.fetching.store import ModelStore
from spinal.checkpoints.sources.base import Listed, Pinned
from spinal.errors import SpinalError
from spinal.errors.sources import SourceUnavailable
from spinal.progress import Progress
from tests.support.places import ROOT
from tests.support.waiting import until

NAME = "hf:org/model@" + "1" * 40
DECLARED = ("sha256", "git_sha1", "tag", "nothing")


@dataclass(frozen=True)
class Scripted:
    """``declared`` says what the list tells of a file's content: one of :data:`DECLARED`."""

    folder: Path
    control: Path
    declared: str = "sha256"
    piece: int = 64 * 1024
    read_timeout_s: float = 10.0
    name: str = NAME

    def pin(self, path: str = "") -> Pinned:
        files = tuple(self.list_file(file) for file in sorted(self.folder.iterdir()))
        return Pinned(self.name, f"https://hub.example/{self.name}", "1" * 40, files, "hf")

    def list_file(self, file: Path) -> Listed:
        raw = file.read_bytes()
        return Listed(
            file.name,
            len(raw),
            file.name,
            sha256=hashlib.sha256(raw).hexdigest() if self.declared == "sha256" else None,
            git_sha1=hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest() if self.declared == "git_sha1" else None,
            tag=f'"{hashlib.md5(raw).hexdigest()}"' if self.declared == "tag" else None,
        )

    # What a test says.

    def tell(self, what: str, value: Any = None, times: int | None = None) -> None:
        """Switch a fault on: for so many reads, or until :meth:`untell`; ``cut@NAME`` for the reads of one file.

        ``away`` (seconds to ask again after, or None): the source does not answer. ``cut`` (bytes): a read ends with an
        error after so many. ``end`` (bytes): a read ends after so many as if that were all. ``corrupt`` (position): one
        byte of a file is another one. ``stall`` (position): nothing comes from there on until told otherwise. ``slow``
        (seconds): before each piece. ``raise``: an error of ``spinal.errors``, by its name. ``long``
        (bytes): so many come behind the end.
        """
        self.control.mkdir(exist_ok=True)
        for index in [None] if times is None else range(times):
            made = self.control / ("new" if index is None else f"new-{index}")
            made.write_text(json.dumps(value))
            made.rename(self.control / (what if index is None else f"{what}.{index}"))

    def untell(self, what: str) -> None:
        for file in (self.control / what, *self.control.glob(f"{what}.*")):
            file.unlink(missing_ok=True)

    def read_bytes(self, name: str | None = None) -> int:
        """So many were sent of all files, or one, by all processes."""
        return sum(int(size) for found, size in self._log("sent") if name in (None, found))

    def reads(self, name: str | None = None) -> list[int]:
        """Where the reads of a file began."""
        return [int(start) for found, start in self._log("began") if name in (None, found)]

    def is_stalled(self) -> bool:
        return (self.control / "stalled").exists()

    def _log(self, what: str) -> Iterator[tuple[str, str]]:
        with suppress(FileNotFoundError):
            for line in (self.control / what).read_text().splitlines():
                name, number = line.rsplit(" ", 1)
                yield name, number

    def _note(self, what: str, name: str, number: int) -> None:
        self.control.mkdir(exist_ok=True)
        with (self.control / what).open("a") as stream:
            stream.write(f"{name} {number}\n")

    # What the store calls.

    @contextmanager
    def read(self, pinned: Pinned, listed: Listed, start: int = 0, end: int | None = None) -> Iterator[Iterator[bytes]]:
        self._note("began", listed.name, start)
        self._fail_at_once(listed.name)
        yield self._pieces(listed, start, end)

    def _fail_at_once(self, name: str) -> None:
        if (away := self._told("away", name)) is not None:
            raise SourceUnavailable("the hub is away", retry_after_s=away[0])
        if (error := self._told("raise", name)) is not None:
            import spinal.errors

            raise getattr(spinal.errors, error[0])("told so")

    def _pieces(self, listed: Listed, start: int, end: int | None) -> Iterator[bytes]:
        cut, stop, corrupt = (self._told(what, listed.name) for what in ("cut", "end", "corrupt"))
        long = self._told("long", listed.name) if end is None else None
        raw = bytearray((self.folder / listed.at).read_bytes())
        if corrupt is not None and corrupt[0] < len(raw):
            raw[corrupt[0]] ^= 0xFF
        raw += bytes(0 if long is None else long[0])
        at, end = start, len(raw) if end is None else end
        while at < end:
            self._stall(at)
            size = min(self.piece, end - at)
            for limit in (cut, stop):
                if limit is not None:
                    size = min(size, start + limit[0] - at)
            if size <= 0:
                if cut is not None and at >= start + cut[0]:
                    raise SourceUnavailable("the connection was cut")
                return
            self._note("sent", listed.name, size)
            yield bytes(raw[at : at + size])
            at += size

    def _stall(self, at: int) -> None:
        if (slow := self._peek("slow")) is not None:
            threading.Event().wait(slow)
        since = time.monotonic()
        while (stall := self._peek("stall")) is not None and at >= stall:
            (self.control / "stalled").touch()
            if time.monotonic() - since > self.read_timeout_s:
                raise SourceUnavailable("nothing came")
            threading.Event().wait(0.02)

    def _peek(self, what: str) -> Any:
        try:
            return json.loads((self.control / what).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _told(self, what: str, name: str) -> tuple[Any] | None:
        """The value of a fault that is on, in a tuple; one of a number of times is on once less then."""
        if not self.control.is_dir():
            return None
        for said in (what, f"{what}@{name}"):
            for file in [self.control / said, *sorted(self.control.glob(f"{said}.*"))]:
                try:
                    value = json.loads(file.read_text())
                    if file.name != said:
                        file.unlink()
                except FileNotFoundError:
                    continue
                return (value,)
        return None


class Gathering:
    """A process that gathers and then holds what it gathered until :meth:`end`."""

    def __init__(self, source: Scripted, store: Path, want: Want, most_bytes: int | None) -> None:
        given = {
            "folder": str(source.folder),
            "control": str(source.control),
            "declared": source.declared,
            "piece": source.piece,
            "name": source.name,
            "store": str(store),
            "want": want,
            "most_bytes": most_bytes,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.scripted_source", json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )

    def outcome(self) -> dict[str, Any]:
        """What became of it: ``fetched``, ``sha256``, ``progress``; or ``error``, the code."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait()}"
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def start(
    source: Scripted, store: Path, want: Want = Want.WEIGHTS, most_bytes: int | None = None
) -> Iterator[Gathering]:
    """A process that gathers; it is gone at the end of the context."""
    gathering = Gathering(source, store, want, most_bytes)
    try:
        yield gathering
    finally:
        gathering.kill()


def until_stalled(source: Scripted) -> None:
    until(source.is_stalled, "the source to stall")


def main(given: str) -> None:
    told = json.loads(given)
    source = Scripted(Path(told["folder"]), Path(told["control"]), told["declared"], told["piece"], name=told["name"])
    store = ModelStore(Path(told["store"]), most_bytes=told["most_bytes"])
    seen: list[Progress] = []
    try:
        with gather(source.pin(), source, store, want=Want(told["want"]), progress=seen.append) as gathered:
            progress = sorted({(report.done, report.total) for report in seen})
            found = {"fetched": gathered.fetched_bytes, "sha256": dict(gathered.sha256), "progress": progress}
            print(json.dumps(found), flush=True)
            sys.stdin.read()
    except SpinalError as error:
        print(json.dumps({"error": error.code}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
