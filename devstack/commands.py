"""The commands of the stack's Python processes."""

import subprocess
import sys
from collections.abc import Mapping

from devstack.processes import HOST, StackError
from service.settings import Settings

CHILDREN = 2
"""Worker children where they share a processor; more would only take turns on a small machine."""
LOOK_TIMEOUT_S = 90.0


def commands(settings: Settings, *, port: int, children: int) -> dict[str, tuple[str, ...]]:
    """Command line of every part by name; the worker listens on the queue that work is sent to."""
    queues = f"{settings.trace_queue},{settings.delivery_queue}"
    celery = ("-m", "celery", "-A", "worker.celery_app", "worker", "--loglevel", "warning")
    found = {
        "worker": (*celery, "--queues", queues, "--concurrency", str(children), "--without-mingle",
                   "--without-gossip"),
        "api": ("-m", "service", "--host", HOST, "--port", str(port)),
        "dispatcher": ("-m", "worker.dispatcher"),
    }  # fmt: skip
    return {name: (sys.executable, *arguments) for name, arguments in found.items()}


def children_for(settings: Settings, environment: Mapping[str, str]) -> int:
    """How many worker children have something to work on: one for each GPU where each takes one."""
    if settings.device != "cuda":
        return CHILDREN
    done = subprocess.run(
        [sys.executable, "-m", "worker.gpus"], env=dict(environment), capture_output=True, text=True, check=False,
        timeout=LOOK_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode != 0:
        raise StackError(f"looking for GPUs failed:\n{done.stderr[-2000:]}")
    found = len(done.stdout.splitlines())
    if found == 0:
        raise StackError("SPINAL_DEVICE is cuda, and no GPU was found; name it with SPINAL_GPUS, or use the CPU")
    return found
