"""The background thread that hands checkpoints over and learns what became of them. Whatever goes wrong in it is said
once and tried again; training never waits for it."""

import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

from spinal.errors import SpinalError
from spinal.integrations.hold import HeldFiles
from spinal.integrations.port import SeriesPort, Standing
from spinal.integrations.spool import Queued, Spool
from spinal.integrations.telling import Telling

FIRST_PAUSE_S = 0.5
AT_ONCE = 100
"""So many members are handed over in one call."""
ENDED = frozenset({"measured", "failed", "cancelled"})
OF_THE_MEMBER = frozenset({409, 422})
"""Statuses by which a service says that what was sent is wrong; of one member, once the series is there."""
NOT_ITS_OWN = frozenset({"idempotency_in_flight"})


class Feeder:
    """Works through the spools of a run in turn, the present one last; for its members it also keeps what trainers
    log."""

    def __init__(self, spools: Sequence[Spool], port_of: Callable[[Spool], SeriesPort], telling: Telling) -> None:
        self._spools = list(spools)
        self._port_of = port_of
        self._ports: dict[Path, SeriesPort] = {}
        self._telling = telling
        self._copies: dict[Path, HeldFiles] = {}
        self._results: SimpleQueue[Queued] = SimpleQueue()
        self._wake, self._stopped, self._quiet = threading.Event(), threading.Event(), threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._work, daemon=True, name="spinal-series")
        self.standing: Standing | None = None
        """Of the present run, as it was last heard."""

    def start(self) -> None:
        self._thread.start()

    def take(self, member: Queued, copy: HeldFiles | None) -> None:
        """A member of the present run was put into the queue; with ``copy`` its files are still to be copied."""
        if copy is not None:
            self._copies[self._spools[-1].checkpoint(member.step)] = copy
        self.nudge()

    def nudge(self) -> None:
        """Look again, now."""
        with self._turn:
            self._quiet.clear()
            self._wake.set()

    def results(self) -> list[Queued]:
        """Members of the present run that were settled since this was last asked."""
        found = []
        while True:
            try:
                found.append(self._results.get_nowait())
            except Empty:
                return found

    def wait_quiet(self, seconds: float) -> bool:
        """Whether nothing is left to be done, within so many seconds."""
        return self._quiet.wait(seconds)

    def stop(self, seconds: float) -> None:
        """Give up what is under way; what is left stays in the queue."""
        self._stopped.set()
        for port in list(self._ports.values()):
            port.stop()
        self._wake.set()
        self._thread.join(seconds)

    def _work(self) -> None:
        pause = FIRST_PAUSE_S
        with ExitStack() as locks:
            mine: set[Path] = set()
            while not self._stopped.is_set():
                self._wake.clear()
                moved, left = False, False
                for spool in self._spools:
                    each_moved, each_left = self._look_after(spool, mine, locks)
                    moved, left = moved or each_moved, left or each_left
                with self._turn:
                    if not left and not self._wake.is_set():
                        self._quiet.set()
                longest = min((port.longest_pause_s for port in self._ports.values()), default=FIRST_PAUSE_S)
                if self._wake.wait(pause if left else None) or moved:
                    pause = FIRST_PAUSE_S
                else:
                    pause = min(pause * 1.5, longest)

    def _lock(self, spool: Spool, locks: ExitStack) -> bool:
        with ExitStack() as attempt:
            if attempt.enter_context(spool.locked()):
                locks.push(attempt.pop_all())
                return True
        self._telling.once(
            "locked",
            f"another process looks after {spool.folder}; checkpoints are put there, and it or a later one sends them",
        )
        return False

    def _look_after(self, spool: Spool, mine: set[Path], locks: ExitStack) -> tuple[bool, bool]:
        """Whether anything moved, and whether anything is left to be done."""
        try:
            if spool.folder not in mine:
                if not self._lock(spool, locks):
                    return False, True
                mine.add(spool.folder)
                _try_again(spool)
            before = spool.members()
            self._round(spool)
            return spool.members() != before, _anything_left(spool)
        except Exception as error:  # noqa: BLE001  a thread that ended by a fault would send nothing any more
            if not self._stopped.is_set():
                self._tell(spool, error)
            return False, True

    def _tell(self, spool: Spool, error: Exception) -> None:
        what = f"{error.detail}" if isinstance(error, SpinalError) else f"{type(error).__name__}: {error}"
        hint = f" ({error.hint})" if isinstance(error, SpinalError) and error.hint else ""
        self._telling.once(
            f"away {type(error).__name__}",
            f"checkpoints are not audited now: {what}{hint}. Training goes on; they wait in {spool.folder} "
            "and are sent as soon as that works, or later with spinal.integrations.send_spooled",
        )

    def _round(self, spool: Spool) -> None:
        """One attempt at everything. Raises SpinalError and whatever a port raises."""
        for member in spool.members():
            if member.stage == "copying":
                self._copy(spool, member)
        waiting = [member for member in spool.members() if member.stage == "waiting"]
        sent = any(member.stage == "sent" for member in spool.members())
        closing = _is_to_be_closed(spool)
        if not waiting and not sent and not closing:
            return
        port = self._port(spool)
        if waiting:
            port.open()
        for at in range(0, len(waiting), AT_ONCE):
            self._add(spool, port, waiting[at : at + AT_ONCE])
        if any(member.stage == "sent" for member in spool.members()):
            self._settle(spool, port)
        # Anew: one may have been refused meanwhile.
        if closing and _is_to_be_closed(spool):
            port.close()
            spool.change_run(closed=True)
            self._settle(spool, port)

    def _port(self, spool: Spool) -> SeriesPort:
        if spool.folder not in self._ports:
            self._ports[spool.folder] = self._port_of(spool)
        return self._ports[spool.folder]

    def _copy(self, spool: Spool, member: Queued) -> None:
        """Bring the files of a checkpoint over, from where they are held open or, after a restart, from where they
        lay."""
        target = spool.checkpoint(member.step)
        held = self._copies.pop(target, None)
        try:
            files = held or HeldFiles(Path(member.source or ""))
            try:
                files.copy_to(target)
            finally:
                files.close()
        except (OSError, SpinalError) as error:
            reason = f"the files of checkpoint-{member.step} could not be copied to {spool.folder}: {error}"
            shutil.rmtree(target, ignore_errors=True)
            self._telling.once(f"copy {member.step}", f"{reason}; it is not audited, and training goes on")
            self._settled(spool, replace(member, stage="settled", state="lost", reason=reason))
            return
        spool.put(replace(member, stage="waiting", source=None))

    def _add(self, spool: Spool, port: SeriesPort, members: Sequence[Queued]) -> None:
        try:
            port.add(members)
        except SpinalError as error:
            if error.status not in OF_THE_MEMBER or error.code in NOT_ITS_OWN or not error.from_service:
                raise
            if len(members) > 1:
                # One that is refused must not keep the others from being measured.
                for member in members:
                    self._add(spool, port, [member])
                return
            [member] = members
            spool.put(replace(member, stage="refused", reason=error.detail))
            self._telling.once(
                f"refused {error.code}",
                f"checkpoint-{member.step} was refused: {error.detail}{f' ({error.hint})' if error.hint else ''}; it "
                f"stays in {spool.folder} and is sent again at the next start. Training goes on",
            )
            return
        for member in members:
            spool.put(replace(member, stage="sent"))

    def _settle(self, spool: Spool, port: SeriesPort) -> None:
        standing = port.standing()
        if spool is self._spools[-1]:
            self.standing = standing
        for member in spool.members():
            if member.stage != "sent":
                continue
            found = standing.members.get(member.step)
            if found is None:
                # The series does not know it, whatever was answered when it was added.
                spool.put(replace(member, stage="waiting"))
            elif found.state in ENDED:
                made = replace(
                    member, stage="settled", state=found.state, scores=dict(found.scores), reason=found.reason
                )
                self._settled(spool, made)

    def _settled(self, spool: Spool, member: Queued) -> None:
        spool.put(member)
        spool.remove_settled(spool.run().keep)
        if spool is self._spools[-1]:
            self._results.put(member)


def _anything_left(spool: Spool) -> bool:
    going = any(member.stage in ("copying", "waiting", "sent") for member in spool.members())
    return going or _is_to_be_closed(spool)


def _is_to_be_closed(spool: Spool) -> bool:
    """Whether a run has ended whose series is open. It stays open for members that were refused: a closed one would
    refuse them for good, when they are sent again."""
    run, members = spool.run(), spool.members()
    return run.ended and not run.closed and bool(members) and all(member.stage != "refused" for member in members)


def _try_again(spool: Spool) -> None:
    """What was refused in another process has another chance: a root may have been mounted, a key renewed."""
    for member in spool.members():
        if member.stage == "refused":
            spool.put(replace(member, stage="waiting", reason=None))
