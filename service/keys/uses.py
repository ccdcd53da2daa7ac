"""When keys were last used, and what binds those of the former release: gathered in memory where requests are admitted,
told to the ledger now and then.

A request that only reads is a transaction that only reads, and none waits for this; what a process has not told when it
dies is lost, which costs a column its minute.
"""

import threading
from datetime import timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.database.unit_of_work import Ledger
from service.keys.store import Caller, bind_keys, say_used
from spinal.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)
EVERY_S = 60.0
"""One statement for all keys that a process has seen, and at most one write of a key's row, in so long."""


class Uses:
    """Keys that have been used since they were last told of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, Caller] = {}

    def add(self, caller: Caller) -> None:
        """Only of keys that are there: strangers fill no memory."""
        if caller.key_id is None:
            return
        with self._lock:
            # Of two uses, the one that can bind the key.
            if caller.to_bind is not None or caller.key_id not in self._seen:
                self._seen[caller.key_id] = caller

    def tell(self, ledger: Ledger) -> None:
        """Write down what was gathered; kept for the next time where the database does not take it."""
        with self._lock:
            told, self._seen = self._seen, {}
        if not told:
            return
        try:
            with ledger.begin() as session:
                bind_keys(session, {key: caller for key, caller in told.items() if caller.to_bind is not None})
                say_used(session, told, at_most_every=timedelta(seconds=EVERY_S))
        except (DatabaseUnavailable, SQLAlchemyError) as error:
            # Also of a database that was taken back to an earlier migration: requests go on without this.
            log.warning("last use of keys not told", keys=len(told), error=type(error).__name__)
            with self._lock:
                self._seen = told | self._seen
