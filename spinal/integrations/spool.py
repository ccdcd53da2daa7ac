"""The folder of one run: checkpoints that wait for their audit, and the queue, both on disk.

::

    SPOOL/checkpoint-10/           the listed files of a checkpoint, until its member is settled
    SPOOL/.spinal/run.json         what is audited and how, and the id of the series
    SPOOL/.spinal/members/10.json  one member: what became of it
    SPOOL/.spinal/measured/10.json its comparison, where this machine measures
    SPOOL/restart-2/               the same for a run that began again

Files are written under another name and renamed. No key of a service is among them.
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from spinal.errors import DocumentInvalid

STATE, RUN, MEMBERS, MEASURED, LOCK = ".spinal", "run.json", "members", "measured", "lock"
RESTART = "restart-"
T = TypeVar("T")
Stage = Literal["copying", "waiting", "sent", "settled", "refused"]


@dataclass(frozen=True)
class Run:
    """What a run is audited against, and how: all that is needed to go on with it later."""

    reference: str
    name: str
    """References of its members begin with it."""
    server: str | None = None
    """Address of the service; None where this machine measures."""
    policy: str | None = None
    prompts: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    place: str = ""
    """Folder that relative paths in what was asked for begin from, where this machine measures."""
    device: str = "cpu"
    threads: int | None = None
    knobs: dict[str, Any] = field(default_factory=dict)
    keep: int = 0
    """So many checkpoints stay after their members are settled, the newest."""
    key: str = ""
    """By which the service knows that it was asked for this series before."""
    series: str | None = None
    """Id of its series, once there is one."""
    ended: bool = False
    """Whether no member comes any more, so that the series may be closed."""
    closed: bool = False


@dataclass(frozen=True)
class Queued:
    """One checkpoint of the run, and what became of it."""

    step: int
    stage: Stage
    source: str | None = None
    """The trainer's folder, where it is still being copied."""
    state: str | None = None
    """Of a settled one: ``measured``, ``failed``, ``cancelled`` or ``lost``."""
    scores: dict[str, float] = field(default_factory=dict)
    reason: str | None = None


class Spool:
    """The folder of one run. Safe to use from several threads of one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writing = threading.Lock()

    @property
    def state(self) -> Path:
        return self.folder / STATE

    @property
    def measured(self) -> Path:
        """Where comparisons are kept that this machine has made."""
        return self.state / MEASURED

    def exists(self) -> bool:
        return (self.state / RUN).is_file()

    def begin(self, run: Run) -> None:
        """Make the folder. Raises OSError."""
        (self.state / MEMBERS).mkdir(parents=True, exist_ok=True)
        self.measured.mkdir(exist_ok=True)
        _write(self.state / RUN, asdict(run))

    def run(self) -> Run:
        """Raises DocumentInvalid, OSError."""
        return _read(Run, self.state / RUN)

    def change_run(self, **changes: Any) -> Run:
        with self._writing:
            changed = replace(self.run(), **changes)
            _write(self.state / RUN, asdict(changed))
        return changed

    def members(self) -> list[Queued]:
        """By step. Raises DocumentInvalid."""
        found = (_read(Queued, path) for path in (self.state / MEMBERS).glob("*.json"))
        return sorted(found, key=lambda member: member.step)

    def put(self, member: Queued) -> None:
        with self._writing:
            _write(self.state / MEMBERS / f"{member.step}.json", asdict(member))

    def checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"

    def remove_settled(self, keep: int) -> None:
        """Remove the checkpoints of settled members but the newest ``keep``."""
        settled = [member.step for member in self.members() if member.stage == "settled"]
        for step in settled[: len(settled) - keep] if keep else settled:
            shutil.rmtree(self.checkpoint(step), ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Whether this process is the one that sends; another one may be, and its lock ends with it."""
        if sys.platform == "win32":
            yield True
            return
        import fcntl

        with (self.state / LOCK).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            try:
                yield True
            finally:
                # Not by closing alone: processes that were forked meanwhile, as those that load data, hold it open.
                fcntl.flock(file, fcntl.LOCK_UN)


def spools_in(folder: Path) -> list[Spool]:
    """The runs that were ever begun in a folder, in order: the first one, and those that began again."""
    numbered = [(1, folder)]
    for path in folder.glob(f"{RESTART}*"):
        number = path.name.removeprefix(RESTART)
        if number.isdecimal():
            numbered.append((int(number), path))
    return [spool for spool in (Spool(path) for _, path in sorted(numbered)) if spool.exists()]


def restarted(folder: Path, before: int) -> Path:
    """The folder of the run that follows ``before`` others; its name goes on from the first one's."""
    return folder / f"{RESTART}{before + 1}" if before else folder


def _write(path: Path, content: dict[str, Any]) -> None:
    made = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    with made.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)


def _read(kind: type[T], path: Path) -> T:
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DocumentInvalid(
            f"{path} is not what was written", hint="move it away; its member is then sent by hand"
        ) from error
