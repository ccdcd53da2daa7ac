"""Real processes that live, wait, stand still and end, and what probes, the ledger and callers see of them."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

from devstack.processes import free_port
from tests.support.fleet import Fleet
from tests.support.places import ROOT
from tests.support.waiting import until
from worker.alive import look

LIMIT_S = 8.0


def watched(fleet: Fleet, **extra: str) -> dict[str, str]:
    """Settings with which a process that stands still shows within seconds."""
    return {
        "SPINAL_ALIVE_DIR": str(fleet.folder / "alive"),
        "SPINAL_ALIVE_LIMIT_S": str(LIMIT_S),
        "SPINAL_TELL_ALIVE_S": "1",
    } | extra


def probe(fleet: Fleet, role: str) -> tuple[bool, str]:
    return look(fleet.folder / "alive", [role], time.monotonic())


def becomes(fleet: Fleet, role: str, alive: bool, says: str = "") -> None:
    until(
        lambda: (found := probe(fleet, role))[0] is alive and says in found[1],
        f"the {role} to be {'alive' if alive else 'found standing still'} {says!r}, is {probe(fleet, role)}",
        timeout=90.0,
    )


def told(fleet: Fleet) -> list[tuple[list[str], int]]:
    return [tuple(row) for row in fleet.rows("SELECT queues, children FROM workers ORDER BY started_at")]


def test_a_worker_is_alive_while_it_works_or_waits_and_not_while_its_parent_stands_still(fleet: Fleet) -> None:
    fleet.hold()
    audit = fleet.submit(reference=None)
    fleet.start_dispatcher()
    worker = fleet.start_worker("worker", 1, **watched(fleet))
    becomes(fleet, "worker", True, ")")
    until(lambda: told(fleet) == [(["cpu"], 1)], "the worker to tell the ledger")
    child, _, _ = fleet.wait_for_call()
    os.kill(child, signal.SIGKILL)
    # Another child takes the run, and nothing is wrong with the worker meanwhile.
    until(lambda: len(fleet.calls()) == 2, "another child to carry on", timeout=60.0)
    becomes(fleet, "worker", True)
    worker.process.send_signal(signal.SIGSTOP)
    becomes(fleet, "worker", False, "has not turned for")
    until(lambda: probe_of_command(fleet)[0] == 1, "the command to say so")
    worker.process.send_signal(signal.SIGCONT)
    becomes(fleet, "worker", True)
    fleet.valkey.kill()
    becomes(fleet, "worker", True, "waiting for the broker")
    # Longer than any loop may take.
    waited = time.monotonic()
    until(lambda: not probe(fleet, "worker")[0] or time.monotonic() > waited + LIMIT_S + 2.0, "some time to pass")
    assert probe(fleet, "worker")[0], probe(fleet, "worker")
    fleet.valkey.start()
    until(lambda: "waiting" not in probe(fleet, "worker")[1], "the worker to have its broker back", timeout=90.0)
    fleet.go_on()
    fleet.wait_for(audit, "SUCCEEDED")
    worker.process.terminate()
    until(lambda: told(fleet) == [], "the worker to take its leave")
    worker.process.wait(timeout=60.0)
    assert probe(fleet, "worker")[0] is False


def probe_of_command(fleet: Fleet) -> tuple[int, str]:
    found = subprocess.run(
        [sys.executable, "-m", "worker.alive", "worker"], cwd=ROOT, env=fleet.environment | watched(fleet),
        capture_output=True, text=True,
    )  # fmt: skip
    assert len(found.stdout.splitlines()) == 1, found
    assert found.stdout.startswith("alive: " if found.returncode == 0 else "not alive: "), found
    return found.returncode, found.stdout


def livez(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=2) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
    except OSError as error:
        return 0, str(error)


def test_a_dispatcher_is_alive_without_its_broker_and_not_while_it_is_frozen(fleet: Fleet) -> None:
    port, health = free_port(), free_port()
    ports = {"SPINAL_METRICS_PORT": str(port), "SPINAL_HEALTH_PORT": str(health)}
    dispatcher = fleet.start_dispatcher(**watched(fleet, **ports))
    until(lambda: livez(port) == (200, "alive\n") == livez(health), "the dispatcher to be alive", timeout=60.0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert b"spinal_workers_alive" in answer.read()
    becomes(fleet, "dispatcher", True)
    fleet.valkey.kill()
    fleet.submit(reference=None)
    until(lambda: livez(port) == (200, "waiting for the broker\n"), "the dispatcher to wait", timeout=60.0)
    fleet.valkey.start()
    dispatcher.process.send_signal(signal.SIGSTOP)
    becomes(fleet, "dispatcher", False)
    assert livez(port)[0] == 0
    dispatcher.process.send_signal(signal.SIGCONT)
    until(lambda: livez(port)[0] == 200 and probe(fleet, "dispatcher")[0], "it to go on", timeout=60.0)
    dispatcher.process.kill()
    dispatcher.process.wait()
    assert probe(fleet, "dispatcher")[1].startswith("no dispatcher"), "what a killed process left is not alive"


def test_a_dispatcher_without_one_of_its_loops_is_not_alive(fleet: Fleet) -> None:
    port = free_port()
    fleet.start(
        "dispatcher", "-c",
        "import sys, worker.dispatcher as d; d.Dispatcher._reap_loop = lambda _: None; sys.exit(d.main())",
        **watched(fleet, SPINAL_METRICS_PORT=str(port)),
    )  # fmt: skip
    until(lambda: livez(port)[0] == 503, "the missing loop to be noticed", timeout=60.0)
    assert "'reaper' has not turned for" in livez(port)[1]
    assert "ringer" not in livez(port)[1]
    becomes(fleet, "dispatcher", False, "'reaper'")


def test_a_file_of_another_process_of_the_same_number_is_not_believed(fleet: Fleet) -> None:
    folder = fleet.folder / "alive"
    folder.mkdir()
    loops = {"broker": {"last": time.monotonic(), "limit_s": 60.0, "waits_for": None}}
    state = {"role": "worker", "pid": os.getpid(), "began": 1, "loops": loops}
    (folder / "worker-1.json").write_text(json.dumps(state))
    (folder / "worker-2.json").write_text("{")
    assert probe(fleet, "worker")[0] is False
