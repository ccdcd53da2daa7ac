"""Audits of a service that a command submits and waits for, and what becomes of them when the command is stopped."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from spinal.cli.output import say
from spinal.cli.progress import Watch, of_audit
from spinal.cli.server import at
from spinal.cli.signals import Stopped
from spinal.client import Client
from spinal.errors import SpinalError

CANCEL_S = 10.0
"""Seconds that a stopped command takes at most to cancel its audit."""
Audit = dict[str, Any]


@dataclass(frozen=True)
class Interrupts:
    """What a command does when it is interrupted or terminated."""

    server: str
    cancel: bool = False
    """Whether the audit is then cancelled."""

    @contextmanager
    def told(self, client: Client, audit_id: str) -> Iterator[None]:
        """Inside, the end of the command is told with what becomes of the audit."""
        try:
            yield
        except Stopped as stopped:
            stopped.told = True
            if not self.cancel:
                say(f"{stopped.word}: {self.goes_on(audit_id)}")
                raise
            say(f"{stopped.word}: cancelling audit {audit_id}")
            self.cancelled(client, lambda: client.cancel(audit_id))
            raise

    def goes_on(self, audit_id: str) -> str:
        return f"audit {audit_id} goes on; stop it with `spinal cancel {audit_id}{at(self.server)}`"

    def cancelled(self, client: Client, cancel: Callable[[], Audit]) -> None:
        """Cancel within CANCEL_S, and say how that went."""
        try:
            with client.trying_for(CANCEL_S):
                ended = cancel()
        except SpinalError as error:
            say(f"not cancelled ({error.detail}); `spinal list{at(self.server)}` shows what goes on")
        else:
            say(f"audit {ended['id']} {ended['state']}")


def submitted(client: Client, submit: Callable[[], Audit], interrupts: Interrupts) -> Audit:
    """Submit an audit; ``submit`` may be called twice for the same one."""
    try:
        return submit()
    except Stopped as stopped:
        stopped.told = True
        say(f"{stopped.word} while submitting: `spinal list{at(interrupts.server)}` shows whether the audit goes on")
        if interrupts.cancel:
            interrupts.cancelled(client, lambda: client.cancel(submit()["id"]))
        raise


def followed(client: Client, audit: Audit, deadline: float, interrupts: Interrupts) -> Audit:
    """Wait for the end of an audit until ``deadline`` (of the monotonic clock), showing where it stands."""
    with interrupts.told(client, audit["id"]), Watch(at_once=True)(audit["candidate"]) as show:
        show(of_audit(audit))
        left = max(0.0, deadline - time.monotonic())
        return client.wait(audit["id"], timeout=left, every=1.0, on_progress=lambda found: show(of_audit(found)))
