"""A connection to Postgres on which nothing waits for ever.

The server ends statements that take too long (``statement_timeout``), and the kernel ends connections whose peer is
gone. Neither helps when something in between (a pooler, a proxy, a hung disk under the server) takes bytes and never
answers: without a limit on this side a worker could neither stop nor be stopped.
"""

import time
from collections.abc import Generator
from typing import Any

import psycopg


class NoAnswer(psycopg.OperationalError):
    """The server took too long for one answer; the connection is closed."""


class BoundedConnection(psycopg.Connection[Any]):
    """Raises NoAnswer when one exchange with the server takes longer than ``answer_limit_s``."""

    answer_limit_s = 20.0

    def wait(self, gen: Generator[Any, int, Any], *args: Any, **options: Any) -> Any:
        try:
            return super().wait(_bounded(gen, self.answer_limit_s), *args, **options)
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
