"""This machine as a place to measure: device, threads, the engine, and under which conditions it measures."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import cast

from spinal.audit import Watch, unwatched
from spinal.engine_port import ENGINE, MeasuringEngine
from spinal.errors import InternalError, UsageError
from spinal.extras import install_hint

CONDITIONS = "spinal.engine.conditions"
DEVICES = "spinal.engine.devices"
THREADS = "spinal.engine.threads"
CAN_LOCK = sys.platform != "win32"
"""The locks of the cache are those of POSIX."""


@dataclass(frozen=True)
class Machine:
    """Where and how to measure."""

    device: str = "cpu"
    threads: int | None = None
    stream: bool = False
    cache: bool = True
    """Whether what is measured is kept for the next time, and looked up."""
    watch: Watch = unwatched
    command: Sequence[str] | None = None


class KnownConditions:
    """The conditions of measurements on this machine, by a call. Where torch is not in this process, they are what it
    told another process in the same surroundings (:mod:`spinal.cache.conditions`)."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._by_note: tuple[str, dict[str, str]] | None = None

    def __call__(self) -> dict[str, str]:
        """Raises UsageError where the device is not there, or torch is not installed and has to be asked."""
        if "torch" in sys.modules:
            # Whoever brought it may have set its threads or its precision: only torch itself knows.
            self.engine()
            return self._told()
        if self._by_note is not None:
            return self._by_note[1]
        from spinal.cache.conditions import note, noted, surroundings

        around = surroundings(self._machine.device, self._machine.threads)
        found = None if around is None else noted(around)
        if around is not None and found is not None:
            self._by_note = (around, found)
            return found
        self.engine()
        told = self._told()
        if around is not None:
            note(around, told)
        return told

    def engine(self) -> MeasuringEngine:
        """The engine module; torch is imported here and nowhere else. Raises UsageError where the device is not there,
        and InternalError where what was looked up before rests on conditions that do not hold."""
        engine = _import(ENGINE)
        _import(DEVICES).check_device(self._machine.device)
        if self._machine.threads is not None:
            _import(THREADS).set_threads(self._machine.threads)
        if self._by_note is not None and self._by_note[1] != self._told():
            from spinal.cache.conditions import forget

            forget(self._by_note[0])
            raise InternalError(
                "torch measures under other conditions than it did before in the same surroundings",
                hint="run it again: what was kept under the others is then not looked up",
            )
        self._by_note = None
        return cast(MeasuringEngine, engine)

    def _told(self) -> dict[str, str]:
        return cast(dict[str, str], _import(CONDITIONS).conditions(self._machine.device))


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"measuring needs the package {error.name!r}", hint=install_hint("local")) from error
