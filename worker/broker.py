"""How workers take messages from a broker: one that is no doorbell costs that message and nothing else.

Anybody who reaches the broker can put anything into a queue, and what stops a worker's main process stops its children
with it. Two things are believed of a message, its id and the id of a run; it goes on with these alone, and a message in
which they are not is thrown away with a warning that repeats nothing of it.
"""

import json
from collections.abc import Callable
from queue import Empty
from typing import Any
from uuid import UUID

import structlog
from celery.worker.consumer import Consumer
from kombu import transport
from kombu.exceptions import InconsistencyError, OperationalError
from kombu.transport import pyamqp, redis
from redis.exceptions import DataError, RedisError

log = structlog.get_logger(__name__)
TASK = "spinal.run"
MOST_BYTES = 64 * 1024
"""A doorbell takes less than one kilobyte."""
LONGEST_ID = 255


class _Guarded:
    """A channel of Redis that survives what it cannot read. Whoever takes an item from the list has removed it."""

    def _brpop_read(self, **options: Any) -> Any:
        return self._survive(lambda: super(_Guarded, self)._brpop_read(**options))  # type: ignore[misc]  # of the channel

    def _receive(self) -> Any:
        return self._survive(lambda: super(_Guarded, self)._receive())  # type: ignore[misc]  # of the channel

    def _survive(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except DataError as error:
            # A tag of the message that Redis has no type for.
            return self._warn(error)
        except (RedisError, OSError, OperationalError, InconsistencyError, Empty):
            # Of the connection. What kombu counts among its errors would be too much: a KeyError of any message, too.
            raise
        except Exception as error:  # noqa: BLE001  whatever its content leads to: only this message is lost
            return self._warn(error)

    def _warn(self, error: Exception) -> bool:
        log.warning("threw a message away that is none", error=type(error).__name__)
        return True


class GuardedChannel(_Guarded, redis.Channel):
    """Redis itself."""


class GuardedSentinelChannel(_Guarded, redis.SentinelChannel):
    """Redis as sentinels name it."""


class GuardedRedis(redis.Transport):
    """``redis://`` and ``rediss://``."""

    Channel = GuardedChannel


class GuardedSentinel(redis.SentinelTransport):
    """``sentinel://``."""

    Channel = GuardedSentinelChannel


class VerifiedAmqps(pyamqp.SSLTransport):
    """``amqps://``, where each of several hosts is held to its own name."""

    def establish_connection(self) -> Any:
        client: Any = self.client
        if isinstance(client.ssl, dict) and "server_hostname" in client.ssl:
            client.ssl = {**client.ssl, "server_hostname": client.hostname}
        return super().establish_connection()


TRANSPORTS: dict[str, type] = {
    "redis": GuardedRedis,
    "rediss": GuardedRedis,
    "sentinel": GuardedSentinel,
    "amqps": VerifiedAmqps,
}


def use_transports() -> None:
    """From now on these stand behind the schemes of addresses, for every connection of this process."""
    transport.TRANSPORT_ALIASES.update(
        {scheme: f"{made.__module__}:{made.__qualname__}" for scheme, made in TRANSPORTS.items()}
    )


class DoorbellConsumer(Consumer):
    """Takes doorbells, and throws away everything else."""

    connection_errors: tuple[type[Exception], ...]

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], None]:
        answer = super().create_task_handler(*arguments, **options)

        def take(message: Any) -> None:
            given = message.delivery_info if isinstance(message.delivery_info, dict) else {}
            message.delivery_info = {name: value for name, value in given.items() if isinstance(value, str | int)}
            try:
                make_doorbell(message)
            except Exception as error:  # noqa: BLE001  whatever its content leads to: only this message is lost
                self._throw_away(message, error)
                return
            answer(message)

        return take

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._throw_away(message, exc)

    def _throw_away(self, message: Any, error: Exception) -> None:
        body = message.body
        log.warning(
            "threw a message away that is no doorbell",
            error=type(error).__name__,
            bytes=len(body) if isinstance(body, bytes | str) else None,
        )
        message.reject_log_error(log, self.connection_errors)


def make_doorbell(message: Any) -> None:
    """Leave nothing in ``message`` but what a doorbell is made of; raises where that is not in it."""
    headers, body = message.headers, message.body
    if len(body) > MOST_BYTES:
        raise ValueError("too large")
    if headers["task"] != TASK:
        raise LookupError("another task")
    if (message.content_type, str(message.content_encoding).lower()) != ("application/json", "utf-8"):
        raise ValueError("no JSON in UTF-8")
    task_id = headers["id"]
    if not isinstance(task_id, str) or not 0 < len(task_id) <= LONGEST_ID or not task_id.isprintable():
        raise ValueError("no id")
    (run_id,), options, _ = json.loads(body)
    if options != {}:
        raise ValueError("further arguments")
    args = [str(UUID(run_id))]
    message.headers = {
        "lang": "py", "task": TASK, "id": task_id, "root_id": task_id, "parent_id": None, "group": None, "meth": None,
        "shadow": None, "eta": None, "expires": None, "retries": 0, "timelimit": (None, None), "argsrepr": repr(args),
        "kwargsrepr": "{}", "origin": None, "ignore_result": True,
    }  # fmt: skip
    message.properties = {
        name: message.properties[name] for name in ("delivery_tag", "body_encoding") if name in message.properties
    }
    message.body = f'[["{args[0]}"], {{}}, {{}}]'.encode()
