"""The demonstration waits as long as something moves, and says what it waits for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from devstack.demo import ASK_EVERY_S, QUIET_S, STALLED_S, Lines, wait_for_end
from spinal.client import Client
from spinal.errors import DeadlineExceeded


@dataclass
class Service:
    """A client of a service in which ``audit_at(seconds)`` is the audit's state, phase and fraction; asking takes time
    on a clock of its own."""

    audit_at: Callable[[float], tuple[str, str, float]]
    now: float = 0.0
    shown: list[tuple[str, float]] = field(default_factory=list)

    def audit(self, audit_id: str, *, wait: float) -> dict[str, Any]:
        self.now += wait
        state, phase, fraction = self.audit_at(self.now)
        return {"id": audit_id, "state": state, "progress": {"phase": phase, "fraction": fraction, "runs": {}}}

    def show(self, audit: dict[str, Any], still_s: float, life: str) -> None:
        self.shown.append((life, still_s))

    def wait(self) -> dict[str, Any]:
        return wait_for_end(cast(Client, self), "a1", lambda: "worker alive (process 7)", self.show,
                            clock=lambda: self.now)  # fmt: skip


def test_an_audit_that_moves_is_waited_for_however_long_it_takes() -> None:
    hours = 3 * 3600.0

    def slowly(now: float) -> tuple[str, str, float]:
        # One step in all but the whole patience.
        steps = now // (STALLED_S * 0.9)
        return ("SUCCEEDED", "finished", 1.0) if now > hours else ("RUNNING", "walk", min(0.99, steps / 1000))

    service = Service(slowly)
    assert service.wait()["state"] == "SUCCEEDED"
    assert service.now > hours
    assert max(still for _, still in service.shown) > STALLED_S * 0.8


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING"])
def test_an_audit_that_stands_still_is_given_up_with_what_is_known_of_it(state: str) -> None:
    service = Service(lambda now: (state, "walk", 0.25 if now > 100 else 0.1))
    with pytest.raises(DeadlineExceeded) as error:
        service.wait()
    assert 100 + STALLED_S < service.now < 100 + STALLED_S + 3 * ASK_EVERY_S
    assert f"has not moved for {STALLED_S:.0f} s ({state}, phase walk, 25%)" in error.value.detail
    assert "worker alive (process 7)" in error.value.detail
    assert error.value.hint


@pytest.mark.parametrize("change", ["state", "phase", "fraction"])
def test_every_change_counts_as_movement(change: str) -> None:
    late = STALLED_S * 0.9
    after = {
        "state": ("RUNNING", "walk", 0.5),
        "phase": ("QUEUED", "store", 0.5),
        "fraction": ("QUEUED", "walk", 0.6),
    }[change]
    service = Service(lambda now: ("QUEUED", "walk", 0.5) if now < late else after)
    with pytest.raises(DeadlineExceeded):
        service.wait()
    assert service.now > late + STALLED_S


def test_lines_tell_every_phase_and_that_the_worker_lives_while_nothing_moves() -> None:
    now, said = 0.0, list[str]()
    lines = Lines(said.append, clock=lambda: now)

    def at(seconds: float, phase: str, still: float, fraction: float = 0.5) -> None:
        nonlocal now
        now = seconds
        audit = {"state": "RUNNING", "progress": {"phase": phase, "fraction": fraction}}
        lines(audit, still, "worker alive (process 7)")

    at(1, "load", 0)
    at(2, "walk", 0)
    at(3, "walk", 1)
    at(2 + QUIET_S, "walk", QUIET_S)
    at(3 + QUIET_S, "walk", QUIET_S + 1)
    at(2 + 2 * QUIET_S, "walk", 2 * QUIET_S)
    at(70, "walk", 0, fraction=0.6)
    at(70 + QUIET_S, "walk", QUIET_S, fraction=0.6)
    assert said == [
        "  1.0 s   50%  RUNNING: load; worker alive (process 7)",
        "  2.0 s   50%  RUNNING: walk; worker alive (process 7)",
        " 32.0 s   50%  RUNNING: walk; nothing new for 30 s; worker alive (process 7)",
        " 62.0 s   50%  RUNNING: walk; nothing new for 60 s; worker alive (process 7)",
        "100.0 s   60%  RUNNING: walk; nothing new for 30 s; worker alive (process 7)",
    ]
