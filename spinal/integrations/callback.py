"""The callback: what happens at each event of a trainer."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from spinal.connection import read_address, read_key
from spinal.errors import SpinalError, UsageError
from spinal.extras import install_hint
from spinal.integrations.feeder import Feeder
from spinal.integrations.hold import HeldFiles, remove_unfinished
from spinal.integrations.left import port_maker, seconds_left
from spinal.integrations.port import PREFIX, Standing
from spinal.integrations.spool import Queued, Run, Spool, restarted, spools_in
from spinal.integrations.telling import Telling
from spinal.integrations.trainer_log import TrainerLog, find_trainer_log, logged_steps

BASE = "transformers"
SYNCHRONISING = "accelerate.utils"
STOPS: dict[str, tuple[str, ...]] = {"destabilised": ("destabilised",), "watch": ("destabilised", "watch")}
"""What training may be stopped on -> the statuses of a series that do."""
LOOK_S = 0.2
STOP_S = 10.0
"""Seconds in which the thread and what it started come to an end."""


class Hooks:
    """Audits every checkpoint that a trainer saves, as a member of one series, while training goes on.

    Parameters
    ----------
    reference : str
        What members are compared with: a reference that the service knows (``"local:sft"``), or, without a service, a
        folder.
    spool : str or path-like
        Folder of this run, in which checkpoints wait for their audit. With a service it lies below one of the service's
        model roots; best on the file system that checkpoints are saved to, where they are linked and not copied.
    name : str, optional
        How the service refers to that folder, for example ``"local:spool/run-1"``; ``local:`` and its path where
        absent.
    server, api_key : str, optional
        Address of the service, and the caller's key, which is not written anywhere. Without an address checkpoints are
        measured on this machine, one after the other, each in a process of its own.
    policy : str, optional
        Name of the policy; without a service also a file.
    labels : dict of str, optional
        Labels of the series.
    stop_on : {"destabilised", "watch"}, optional
        Stop training when the series says so. By default nothing stops it.
    keep : int, default 0
        So many checkpoints stay in the spool after their members are settled, the newest.
    at_most : int, optional
        So many checkpoints may wait in the spool; while there are that many, no more are taken, with a warning.
    final_wait : float, default 60.0
        Seconds that the end of training waits for audits at most. Nothing else waits.
    close : bool, default True
        Whether the series is closed when training has ended.
    prompts : str, optional
        A built-in set, or one that the service has; without a service also a file.
    device, threads
        As for :func:`spinal.trace`, without a service.
    **knobs
        Fields of :class:`spinal.profile.MeasurementProfile`, for example ``max_tokens=256``.

    Raises
    ------
    UsageError, ProfileInvalid, DocumentInvalid, SpinalError
        An argument is wrong. Once training has begun nothing is raised: what goes wrong is a warning, once.

    Examples
    --------
    >>> from trl import DPOTrainer
    >>> from spinal.integrations import SpinalCallback
    >>> callback = SpinalCallback("local:sft", spool="/models/spool/run-1", name="local:spool/run-1", server=server)
    >>> trainer = DPOTrainer(model, args=args, train_dataset=pairs, processing_class=tokenizer, callbacks=[callback])
    """

    def __init__(
        self,
        reference: str | os.PathLike[str],
        *,
        spool: str | os.PathLike[str],
        name: str | None = None,
        server: str | None = None,
        api_key: str | None = None,
        policy: str | None = None,
        labels: Mapping[str, str] | None = None,
        stop_on: Literal["destabilised", "watch"] | None = None,
        keep: int = 0,
        at_most: int | None = None,
        final_wait: float = 60.0,
        close: bool = True,
        prompts: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        **knobs: Any,
    ) -> None:
        self._folder = Path(spool).expanduser().absolute()
        self._run = Run(
            reference=os.fspath(reference),
            name=(name or f"local:{self._folder}").rstrip("/"),
            server=None if server is None else str(read_address(server)).rstrip("/"),
            policy=policy,
            prompts=prompts,
            labels=dict(labels or {}),
            place="" if server is not None else os.getcwd(),
            device=device,
            threads=threads,
            knobs=knobs,
            keep=keep,
        )
        _check_numbers(keep=keep, at_most=at_most, final_wait=final_wait)
        if stop_on is not None and stop_on not in STOPS:
            raise UsageError(f"stop_on is {stop_on!r}", hint=f"give {' or '.join(map(repr, STOPS))}, or leave it out")
        _check_run(self._run, named=name is not None)
        self._port_of = port_maker(read_key(api_key))
        self._stop_on, self._at_most, self._final_wait, self._close = stop_on, at_most, final_wait, close
        self._telling = Telling()
        self._log = TrainerLog(None)
        self._spool: Spool | None = None
        self._feeder: Feeder | None = None
        self._alarm = False

    # events

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._alarm = False
        if state.is_world_process_zero:
            self._log = find_trainer_log(self)
            self._log.go_first(self)
            self._safely("begin", lambda: self._begin(args, state, control))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._safely("save", lambda: self._take(folder, int(state.global_step)))
            self._safely("results", lambda: self._tell_results(args, state, control))
        if self._stop_on is not None and args.world_size > 1:
            # Every process saves at the same step, and all have to stop at the same one, or they wait for each other.
            self._safely("stop", self._share_alarm)
        self._stop(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._safely("results", lambda: self._tell_results(args, state, control))
        if args.world_size == 1:
            self._stop(control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._safely("end", lambda: self._end(args, state, control))

    @property
    def standing(self) -> Standing | None:
        """The series as it was last heard of: its status, reasons and members; None before, and on processes beside the
        main one."""
        return None if self._feeder is None else self._feeder.standing

    @property
    def series(self) -> str | None:
        """Id of the series of the last run, once the service has made it."""
        return None if self._spool is None else self._spool.run().series

    def let_go(self) -> None:
        """Stop what goes on in the background; what is left stays in the queue. Training that ended by an error need
        not call it: the thread ends with the process."""
        if self._feeder is not None:
            self._feeder.stop(STOP_S)
            self._feeder = None

    # what they do

    def _begin(self, args: Any, state: Any, control: Any) -> None:
        if not self._log.known:
            self._telling.once(
                "no trainer", "the trainer's own log was not found; scores go to trainer.state.log_history alone"
            )
        self.let_go()
        spools = self._spools(int(state.global_step))
        self._spool = spools[-1]
        remove_unfinished(self._spool.folder)
        self._feeder = Feeder(spools, self._port_of, self._telling)
        self._feeder.start()
        # Settled after the checkpoint was saved that training goes on from.
        known = logged_steps(state, PREFIX)
        for member in self._spool.members():
            if member.stage == "settled" and member.step not in known:
                self._tell_result(args, state, control, member)
        # The process before may have ended after it had saved this one and before it had put it into the queue.
        resumed = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.global_step and resumed.is_dir():
            self._take(resumed, int(state.global_step))

    def _spools(self, step: int) -> list[Spool]:
        """The runs in the folder, the one that goes on or begins now last. A run goes on where it was interrupted; one
        that was closed, or that has a member beyond the step from which training goes on, is another history."""
        found = spools_in(self._folder)
        if found:
            last = found[-1]
            run = last.run()
            if not run.ended and all(member.step <= step for member in last.members()):
                last.change_run(**{**_described(self._run), "name": run.name})
                return found
            last.change_run(ended=True)
            self._telling.once(
                "restart",
                f"{last.folder} holds the checkpoints of a run that has ended or went on beyond step {step}; this one "
                "is a series of its own",
            )
        folder = restarted(self._folder, len(found))
        below = folder.relative_to(self._folder).as_posix()
        name = self._run.name if below == "." else f"{self._run.name}/{below}"
        made = Spool(folder)
        made.begin(Run(**{**_described(self._run), "name": name, "key": str(uuid4())}))
        return [*found, made]

    def _take(self, folder: Path, step: int) -> None:
        """Take hold of a checkpoint that was just saved; its trainer may delete it as soon as this returns."""
        spool, feeder = self._spool, self._feeder
        if spool is None or feeder is None:
            return
        members = spool.members()
        if any(member.step == step for member in members):
            return
        waiting = sum(member.stage != "settled" for member in members)
        if self._at_most is not None and waiting >= self._at_most:
            self._telling.once(
                "full",
                f"{waiting} checkpoints wait in {spool.folder}; no more are taken until some are settled (at_most)",
            )
            return
        if spool.checkpoint(step).is_dir():
            # Whole, as all that bears this name: only its record is missing.
            spool.put(Queued(step, "waiting"))
            feeder.nudge()
            return
        try:
            held = HeldFiles(folder)
        except SpinalError as error:
            self._telling.once(
                f"refused {error.code}",
                f"{error.detail}{f' ({error.hint})' if error.hint else ''}; checkpoints like it are not audited, and "
                "training goes on. Have the trainer save whole safetensors (docs/training.md)",
            )
            return
        with ExitStack() as undo:
            # Open files of a deleted checkpoint take its room on the disk, which may be what is lacking.
            undo.callback(held.close)
            linked = held.link_to(spool.checkpoint(step))
            member = Queued(step, "waiting") if linked else Queued(step, "copying", source=str(folder.absolute()))
            undo.callback(shutil.rmtree, spool.checkpoint(step), ignore_errors=True)
            spool.put(member)
            undo.pop_all()
        if linked:
            held.close()
        feeder.take(member, None if linked else held)

    def _tell_results(self, args: Any, state: Any, control: Any) -> None:
        if self._feeder is None:
            return
        for member in self._feeder.results():
            self._tell_result(args, state, control, member)
        standing = self.standing
        if self._stop_on and standing is not None and standing.status in STOPS[self._stop_on] and not self._alarm:
            self._alarm = True
            why = f": {standing.reasons[0]}" if standing.reasons else ""
            self._telling.once("alarm", f"training is stopped, the series is {standing.status}{why}")

    def _tell_result(self, args: Any, state: Any, control: Any, member: Queued) -> None:
        if member.state != "measured":
            self._telling.once(
                f"member {member.step}", f"checkpoint-{member.step} was not measured ({member.state}): {member.reason}"
            )
        elif member.scores:
            self._log.log(args, state, control, member.step, member.scores)

    def _share_alarm(self) -> None:
        """The main process alone hears of alarms; all decide as it does."""
        shared = [self._alarm]
        import_module(SYNCHRONISING).broadcast_object_list(shared)
        self._alarm = bool(shared[0])

    def _stop(self, control: Any) -> None:
        if self._alarm:
            control.should_training_stop = True

    def _end(self, args: Any, state: Any, control: Any) -> None:
        spool, feeder = self._spool, self._feeder
        if spool is None or feeder is None:
            return
        if self._close:
            spool.change_run(ended=True)
        feeder.nudge()
        deadline = time.monotonic() + self._final_wait
        quiet = False
        while not quiet and seconds_left(deadline) > 0.0:
            quiet = feeder.wait_quiet(min(LOOK_S, seconds_left(deadline)))
            self._tell_results(args, state, control)
        feeder.stop(STOP_S)
        self._tell_results(args, state, control)
        self.let_go()
        left = sum(member.stage != "settled" for member in spool.members())
        if left:
            self._telling.once(
                "left",
                f"{left} checkpoints are not settled; they wait in {spool.folder}: "
                f"spinal.integrations.send_spooled({os.fspath(self._folder)!r}) goes on with them",
            )

    def _safely(self, what: str, act: Callable[[], None]) -> None:
        """Nothing that goes wrong here stops training."""
        try:
            act()
        except Exception as error:  # noqa: BLE001  training is worth more than its audit
            self._telling.once(f"{what} {type(error).__name__}", f"checkpoints may not be audited: {error!r}")


@cache
def callback_class() -> type[Any]:
    """``SpinalCallback``: the hooks on top of what transformers calls. Raises UsageError where that is not
    installed."""
    try:
        base = import_module(BASE).TrainerCallback
    except ModuleNotFoundError as error:
        raise UsageError(f"the callback needs the package {error.name!r}", hint=install_hint("training")) from error
    made = {"__doc__": Hooks.__doc__, "__module__": "spinal.integrations"}
    return type("SpinalCallback", (Hooks, base), made)


def _described(run: Run) -> dict[str, Any]:
    """What was asked for, without what became of it."""
    became = ("key", "series", "ended", "closed")
    return {name: value for name, value in vars(run).items() if name not in became}


def _check_numbers(*, keep: int, at_most: int | None, final_wait: float) -> None:
    if keep < 0:
        raise UsageError(f"keep is {keep}", hint="give 0 or more")
    if at_most is not None and at_most < 1:
        raise UsageError(f"at_most is {at_most}", hint="give 1 or more, or leave it out")
    if not 0.0 <= final_wait < float("inf"):
        raise UsageError(f"final_wait is {final_wait}", hint="give seconds, 0 or more")


def _check_run(run: Run, *, named: bool) -> None:
    """Refuse now what would be refused at the first checkpoint, hours later."""
    from spinal.given import make_profile

    if run.server is not None:
        if run.device != "cpu" or run.threads is not None:
            raise UsageError("device and threads are for measuring on this machine", hint="leave them or server out")
        make_profile(run.knobs)
        return
    if named:
        raise UsageError("name is how a service refers to the spool, and there is no server", hint="leave it out")
    from spinal.checkpoints.resolve import resolve_reference
    from spinal.policy.judge import find_policy

    resolve_reference(run.reference, roots=None)
    make_profile(run.knobs)
    find_policy(run.policy)
