"""The one state machine of a run, as pure functions; the database repeats it as constraints and triggers.

    QUEUED -> RUNNING                claim
    RUNNING -> SUCCEEDED | FAILED    complete, fail
    RUNNING -> QUEUED                lost lease, release, retryable failure
    QUEUED | RUNNING -> CANCELLED    cancel
    QUEUED -> FAILED                 a run it depends on failed

Terminal states never change.
"""

from enum import StrEnum


class State(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (State.QUEUED, State.RUNNING),
        (State.QUEUED, State.FAILED),
        (State.QUEUED, State.CANCELLED),
        (State.RUNNING, State.SUCCEEDED),
        (State.RUNNING, State.FAILED),
        (State.RUNNING, State.CANCELLED),
        (State.RUNNING, State.QUEUED),
    }
)

IN_FLIGHT = frozenset(old for old, _ in TRANSITIONS)
TERMINAL = frozenset(State) - IN_FLIGHT


def audit_state(run_states: list[State]) -> State:
    """State of an audit from the states of its runs (a cancelled audit is decided by its own row).

    One failed run fails the audit, even while others still run: nothing can make it whole again.
    """
    if any(state is State.FAILED for state in run_states):
        return State.FAILED
    if any(state is State.CANCELLED for state in run_states):
        return State.CANCELLED
    if run_states and all(state is State.SUCCEEDED for state in run_states):
        return State.SUCCEEDED
    if any(state in (State.RUNNING, State.SUCCEEDED) for state in run_states):
        return State.RUNNING
    return State.QUEUED
