"""Celery as a doorbell: a message carries a run id and nothing else; the run row in Postgres is the job."""

import sys
import threading
from typing import Any

import structlog
from celery import Celery
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    task_failure,
    worker_init,
    worker_process_init,
    worker_shutdown,
    worker_shutting_down,
)
from kombu import Queue

from service.database.sessions import require_sessions
from service.platform.addresses import broker
from service.platform.logs import configure_logs
from service.runs.kinds import KINDS
from service.settings import get_settings, one_line, settings_at_start
from spinal.errors import UsageError
from worker import presence
from worker.broker import TASK as TASK
from worker.broker import use_transports
from worker.gpus import own_one

log = structlog.get_logger(__name__)


def make_app() -> Celery:
    """The Celery application, configured from settings."""
    settings = settings_at_start()
    use_transports()
    where = broker(
        settings,
        socket_timeout=10.0,
        socket_connect_timeout=settings.publish_timeout_s,
        socket_keepalive=True,
        health_check_interval=10,
        retry_on_timeout=False,
        # Doorbells are rung again by the dispatcher; nothing relies on redelivery.
        visibility_timeout=24 * 3600,
        max_retries=1,
    )
    made = Celery("spinal", broker=where.url, include=["worker.tasks"])
    made.conf.update(
        worker_consumer="worker.broker:DoorbellConsumer",
        # A message may be lost or doubled without harm, so it is acknowledged at once: with late
        # acknowledgement Redis redelivers jobs longer than its visibility timeout.
        task_acks_late=False,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        # torch in the parent would deadlock forked children, and CUDA cannot be used after a fork.
        worker_pool_start_method="spawn",
        # A precaution: a child that says too late that it is up is killed and replaced, by default after 4 s, and
        # one that imports torch for the first time on a busy machine may well need longer.
        worker_proc_alive_timeout=300.0,
        # The last resort against a child that cannot end itself (its interpreter is stuck inside a kernel).
        task_time_limit=max(kind.deadline_s(settings) for kind in KINDS.values()) + 120.0,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=settings.trace_queue,
        # What a worker takes that is started without --queues.
        task_queues=[Queue(name) for name in dict.fromkeys((settings.trace_queue, settings.delivery_queue))],
        broker_connection_retry_on_startup=True,
        # Never give up on a broker: by default a worker ends itself after a hundred tries.
        broker_connection_max_retries=None,
        broker_connection_timeout=settings.publish_timeout_s,
        broker_transport_options=where.transport_options,
        broker_use_ssl=where.ssl,
        worker_soft_shutdown_timeout=0.0,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
    )
    return made


app = make_app()
app.steps["consumer"].add(presence.TurnsOfMainLoop)


@setup_logging.connect
def _logs(**_: Any) -> None:
    configure_logs(get_settings())


@worker_init.connect
def _look_around(**_: Any) -> None:
    """A token file that is missing, or a pooler that is not what the settings say, is told before any run is taken."""
    try:
        get_settings().model_sources.require_usable()
        require_sessions(get_settings())
    except UsageError as error:
        sys.exit(one_line(error))


@worker_init.connect
def _look_at_store(**_: Any) -> None:
    """So is a store of another installation, or one that does not let this worker in."""
    from worker.stores import look_at_start

    problem = look_at_start(get_settings())
    if problem is not None:
        sys.exit(f"error: {problem}")


@celeryd_after_setup.connect
def _say_here(instance: Any = None, **_: Any) -> None:
    """Runs in the parent, before the broker is asked for: a worker that waits for it is there, too."""
    presence.begin(get_settings(), instance)


@worker_shutting_down.connect
def _say_leaving(**_: Any) -> None:
    presence.leave()


@worker_shutdown.connect
def _say_gone(**_: Any) -> None:
    presence.end()


@worker_process_init.connect
def _warm_up(**_: Any) -> None:
    """Import the engine beside everything else, so that the first run does not pay for it; with it comes torch, so the
    child's GPU is settled before. A child that waits for one is not up yet: it is given no work."""
    from spinal.engine_port import load_engine

    settings = get_settings()
    if not settings.warm_engine:
        return
    own_one(settings)
    threading.Thread(target=load_engine, args=(settings.engine,), daemon=True, name="warm-up").start()


@task_failure.connect
def _child_lost(task_id: str | None = None, exception: BaseException | None = None, **_: Any) -> None:
    """Runs in the parent when a child died under a task: its run need not wait for the lease to expire."""
    from billiard.exceptions import TimeLimitExceeded, WorkerLostError

    if isinstance(exception, (TimeLimitExceeded, WorkerLostError)):
        from worker.lease import hand_back_lost

        hand_back_lost(str(task_id))
