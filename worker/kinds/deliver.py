"""Runs of kind ``deliver``: tell one place of one event. At least once: a worker that dies behind the answer tells it
again, under the same id."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import cast
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from service.deliveries.store import Delivery, Try, add_try, find_delivery
from service.deliveries.targets import TARGETS
from service.runs.kinds import SCHEDULE_S
from service.settings import Settings
from spinal.errors import Cancelled, DeliveryFailed, SpinalError
from worker.job import Job, NotSetUpHere

log = structlog.get_logger(__name__)
JITTER = 0.1
"""Of a pause, more at most: many that failed together do not come back together."""
LONGEST_ASKED_S = 86_400.0
"""A receiver may ask for more (``Retry-After``): it is tried then."""


@dataclass(frozen=True)
class Told:
    """What a target says of one attempt."""

    ok: bool
    status: int | None = None
    detail: str | None = None
    """What went wrong, in one line that the tenant reads: nothing of what a receiver sent but its status."""
    retry_after_s: float | None = None
    """What the receiver asked for."""
    final: bool = False
    """Whether another attempt would be in vain."""
    unwanted: bool = False
    """Whether nothing was sent, because nobody wants it any more."""
    also: Callable[[Session], None] = lambda _session: None
    """Written in the transaction that ends the attempt."""
    afterwards: Callable[[Session], None] | None = None
    """Written behind it, in a transaction that locks more than this run; whoever dies in between leaves it undone."""


@dataclass(frozen=True)
class Asked:
    """What a target is given. It has to end by ``ends`` (``time.monotonic``), or as soon as ``stopped()``."""

    settings: Settings
    delivery: Delivery
    attempt: int
    ends: float
    stopped: Callable[[], bool]
    read: Callable[[Callable[[Session], object]], object]
    """A query of the ledger, in a read-only transaction."""


Deliver = Callable[[Asked], Told]


def carry_out(job: Job) -> None:
    """One attempt. Ends the run, or puts it back until its next attempt by the schedule of Standard Webhooks."""
    delivery = job.read(lambda session: find_delivery(session, UUID(job.spec["delivery"])))
    if delivery is None:
        raise DeliveryFailed("the delivery is gone: its tenant was deleted", final=True)
    if job.should_stop():
        raise Cancelled("the delivery was given up")
    started = time.monotonic()
    told = _deliver(job, delivery, started)
    tried = Try(told.ok, round((time.monotonic() - started) * 1000), told.status, told.detail)

    def write(session: Session) -> None:
        add_try(session, delivery.id, job.claim.attempt, tried)
        told.also(session)

    if told.unwanted:
        job.give_up(told.detail or "nobody wants it any more")
        return
    if told.ok:
        job.finish(delivery.digest, write)
        return
    problem = DeliveryFailed(told.detail or "it was not taken", final=told.final)
    job.fail(problem, write, pause_s=_pause_s(job, told.retry_after_s))
    if told.afterwards is not None:
        job.write(told.afterwards)


def _deliver(job: Job, delivery: Delivery, started: float) -> Told:
    target = TARGETS.get(delivery.target)
    if target is None:
        raise DeliveryFailed(f"this worker knows no target {delivery.target!r}", final=False)
    module, _, function = target.deliver.partition(":")
    deliver = cast(Deliver, getattr(import_module(module), function))
    ends = started + job.settings.delivery_answer_s
    try:
        return deliver(Asked(job.settings, delivery, job.claim.attempt, ends, job.should_stop, job.read))
    except (SpinalError, NotSetUpHere):
        raise
    except Exception as error:
        # What a receiver makes us fail by is tried again when the schedule says, not at once.
        log.exception("delivery failed unexpectedly")
        return Told(False, detail=f"the worker failed ({type(error).__name__}); its log holds the traceback")


def _pause_s(job: Job, asked_s: float | None) -> float:
    """Until the next attempt: what the schedule says behind so many, or what the receiver asked for where that is
    longer."""
    number = min(job.charged, len(SCHEDULE_S)) - 1
    scheduled = SCHEDULE_S[number] * (1.0 + JITTER * random.random())  # noqa: S311  no secret
    return max(scheduled, min(asked_s or 0.0, LONGEST_ASKED_S))
