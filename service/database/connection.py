"""A connection to Postgres on which nothing waits for ever.

The server ends statements that take too long (``statement_timeout``), and the kernel ends connections whose peer is
gone. Neither helps when something in between (a pooler, a proxy, a hung disk under the server) takes bytes and never
answers: without a limit on this side a worker could neither stop nor be stopped.
"""

import select
import time
from collections.abc import Generator
from typing import Any

import psycopg

PING_LIMIT_S = 3.0
HEARD_LATELY_S = 1.0
"""So long after an answer a server that has not hung up is taken to be there."""

NEVER = float("-inf")


class NoAnswer(psycopg.OperationalError):
    """The server took too long for one answer; the connection is closed."""


class BoundedConnection(psycopg.Connection[Any]):
    """Raises NoAnswer when one exchange with the server takes longer than ``answer_limit_s``."""

    answer_limit_s = 20.0
    first_limit_s: float | None = None
    """Limit of the next exchange alone."""
    heard_at = NEVER
    """When the server was last known to be there, by the monotonic clock."""

    def answers(self) -> bool:
        """Whether the server is there. It is asked only when it was not heard lately or has hung up: asking costs a
        short request a way there and back, as much as what it wants to know. Otherwise the BEGIN that comes next has to
        be answered as soon as the question would have been."""
        self.first_limit_s = PING_LIMIT_S
        if time.monotonic() - self.heard_at < HEARD_LATELY_S and self._is_quiet():
            return True
        try:
            # Outside any transaction.
            self.set_autocommit(True)
            self.execute("SELECT 1")
            self.set_autocommit(False)
        except psycopg.Error:
            return False
        return True

    def _is_quiet(self) -> bool:
        """A server that nobody has asked anything sends nothing but its farewell."""
        if self.closed:
            return False
        ear = select.poll()
        ear.register(self.fileno(), select.POLLIN)
        return not ear.poll(0)

    def wait(self, gen: Generator[Any, int, Any], *args: Any, **options: Any) -> Any:
        limit_s, self.first_limit_s = self.first_limit_s or self.answer_limit_s, None
        try:
            return super().wait(_bounded(gen, limit_s), *args, **options)
        except NoAnswer:
            # Its protocol is out of step: whoever had it must not use it again.
            self.close()
            raise


def _bounded(gen: Generator[Any, int, Any], limit_s: float) -> Generator[Any, int, Any]:
    """``gen``, ended after ``limit_s``: psycopg wakes a waiting generator every tenth of a second with "not ready".
    (The time limit that its own ``wait`` has in later releases ends in a private error and leaves the connection open.)
    """
    deadline = time.monotonic() + limit_s
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise NoAnswer(f"no answer within {limit_s:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value
