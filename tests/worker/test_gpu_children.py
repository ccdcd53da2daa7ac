"""Children of real Celery workers on pretended GPUs: each has one of its own, through any number of kills."""

import os
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from celery import Celery

from devstack import ValkeyServer
from devstack.processes import Child, free_port
from tests.support.places import ROOT
from tests.support.waiting import until
from worker.broker import TASK

KILLS = 20
StartWorker = Callable[..., Child]


@pytest.fixture
def start_worker(valkey: ValkeyServer, tmp_path: Path) -> Iterator[StartWorker]:
    """``start_worker("name", children=2, gpus="0,1")``; no database is needed as long as nothing is rung."""
    workers: list[Child] = []

    def start(name: str, *, children: int, gpus: str) -> Child:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "SPINAL_BROKER_URL": valkey.url,
            "SPINAL_SCRATCH_DIR": str(tmp_path),
            "SPINAL_ENGINE": "tests.worker.gpu_double",
            "SPINAL_DOUBLE_DIR": str(tmp_path),
            "SPINAL_LOG_FORMAT": "console",
            "SPINAL_DEVICE": "cuda",
            "SPINAL_GPUS": gpus,
            "SPINAL_GPU_LOCK_DIR": str(tmp_path / "locks"),
            "SPINAL_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none",
            "SPINAL_LEASE_S": "0.5",
        }
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        command = [
            sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "--loglevel", "info", "--queues",
            "none", "--concurrency", str(children), "--without-mingle", "--without-gossip", "-n", f"{name}@%h",
        ]  # fmt: skip
        workers.append(Child(name, command, log=tmp_path / f"{name}.log", env=environment, cwd=ROOT))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def holders(folder: Path) -> dict[str, int]:
    """GPU -> the process that holds its lock, as the kernel tells it."""
    by_inode = {}
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, mode, pid, place, *_ = line.replace("->", "").split()
        if (kind, mode) == ("FLOCK", "WRITE"):
            by_inode[int(place.rsplit(":", 1)[1])] = int(pid)
    found = {file.stem: by_inode.get(file.stat().st_ino) for file in folder.glob("*.lock")}
    return {gpu: pid for gpu, pid in found.items() if pid is not None}


def seen(folder: Path) -> dict[int, str]:
    """Process -> what it saw as it imported its engine, of all processes there ever were."""
    files = [file for file in folder.glob("gpu-*") if file.suffix != ".partial"]
    return {int(file.name.removeprefix("gpu-")): file.read_text() for file in files}


def shared_out(folder: Path, gpus: set[str], dead: set[int]) -> dict[str, int] | None:
    """GPU -> child, once every GPU has a living child whose engine was imported with just that one to be seen."""
    held, visible = holders(folder / "locks"), seen(folder)
    if set(held) != gpus or dead & set(held.values()) or not set(held.values()) <= set(visible):
        return None
    assert len(set(held.values())) == len(gpus), f"two GPUs for one child: {held}"
    assert {pid: visible[pid] for pid in held.values()} == {pid: gpu for gpu, pid in held.items()}
    return held


def test_every_child_has_a_gpu_of_its_own_through_twenty_kills(tmp_path: Path, start_worker: StartWorker) -> None:
    gpus = {"0", "1", "2"}
    # Two workers on one host share out what there is.
    start_worker("pair", children=2, gpus="0,1,2")
    start_worker("single", children=1, gpus="0,1,2")
    dead: set[int] = set()
    kills, draw = 0, random.Random(5)
    while True:
        held = until(lambda: shared_out(tmp_path, gpus, dead), f"all GPUs held after {kills} kills", timeout=90)
        if kills == KILLS:
            break
        victims = draw.sample(sorted(held.values()), min(draw.choice((1, 3, 3)), KILLS - kills))
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        kills += len(victims)
        dead.update(victims)
    assert len(seen(tmp_path)) == len(gpus) + KILLS


def test_a_child_without_a_gpu_takes_no_work_and_says_so(
    tmp_path: Path, valkey: ValkeyServer, start_worker: StartWorker
) -> None:
    worker = start_worker("crowded", children=2, gpus="0")
    log = tmp_path / "crowded.log"
    until(lambda: "no GPU is free: this worker child takes no work" in log.read_text(), "the refusal", timeout=90)
    owner = until(lambda: shared_out(tmp_path, {"0"}, set()), "the other child with the GPU", timeout=90)["0"]
    assert len(seen(tmp_path)) == 1, "a child without a GPU must not import its engine"
    with Celery(broker=valkey.url) as sender:
        for number in range(6):
            # There is no database: the claim is given up, and the doorbell has been answered.
            sender.send_task(TASK, args=[str(UUID(int=number))], queue="none", ignore_result=True)
    done = re.compile(r"spinal\.run\[.*succeeded")
    until(lambda: len(done.findall(log.read_text())) == 6, "the other child to be given all tasks", timeout=60)
    # It was waiting: what the owner leaves is its own.
    os.kill(owner, signal.SIGKILL)
    until(lambda: shared_out(tmp_path, {"0"}, {owner}), "the GPU to change hands", timeout=90)
    worker.send(signal.SIGTERM)
    until(lambda: not worker.alive(), "the worker to stop although a child waits for a GPU", timeout=60)
    until(lambda: not holders(tmp_path / "locks"), "the GPU to be free again")
