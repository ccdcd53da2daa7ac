"""The whole stack from one command: started, used over HTTP by the real client, stopped without a trace."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from devstack import throwaway_postgres
from devstack.processes import StackError, as_unprivileged
from devstack.stack import Stack, throwaway_folder
from spinal.client import Client
from spinal.errors import ModelNotFound, Unauthorized
from tests.conftest import EXAMPLES, ROOT
from tests.support.waiting import until


def descendants(pid: int) -> set[int]:
    """Every process below ``pid``."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        below.setdefault(parent, []).append(int(entry.name))
    found, pending = set(), [pid]
    while pending:
        for child in below.get(pending.pop(), []):
            found.add(child)
            pending.append(child)
    return found


def running(pids: set[int]) -> set[int]:
    def alive(pid: int) -> bool:
        try:
            return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    return {pid for pid in pids if alive(pid)}


def test_the_demo_audits_the_bundled_pair(tmp_path: Path) -> None:
    report = tmp_path / "sub folder" / "demo.html"
    done = subprocess.run(
        [sys.executable, "-m", "devstack", "demo", "--report", str(report)], capture_output=True, text=True,
        check=False, cwd=tmp_path, timeout=180, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "The change in what blocks compute is spread over the depth" in " ".join(done.stdout.split())
    assert "block swap" in done.stdout
    assert re.search(r"SUCCEEDED", done.stderr)
    page = report.read_text()
    assert "<svg" in page
    assert "Traceback" not in done.stderr


def test_a_stack_is_used_with_its_key_and_survives_its_parts(tmp_path: Path) -> None:
    with throwaway_folder() as folder:
        stack = Stack(folder, durable=False, model_roots=(EXAMPLES / "checkpoints",), concurrency=1)
        stack.start()
        try:
            with Client(stack.url, stack.api_key) as client:
                audit = client.submit("local:dpo-short", prompt_set="hh-harmless-64", profile={"max_tokens": 32})
                done = client.wait(audit["id"], timeout=120, every=1.0)
                assert done["state"] == "SUCCEEDED"
                assert client.trace(done["links"]["candidate_trace"].rsplit("/", 1)[1]).model.n_layers == 24
                with pytest.raises(ModelNotFound):
                    client.submit("local:nothing")
            with Client(stack.url, "spk_wrong_key", patience=0) as stranger, pytest.raises(Unauthorized):
                list(stranger.audits())
            with pytest.raises(StackError, match="another stack"):
                Stack(folder, durable=False, model_roots=()).start()
            first = stack.child("dispatcher").pid
            os.kill(first, signal.SIGKILL)
            said: list[str] = []
            stack.watch(lambda: bool(said) and stack.child("dispatcher").alive(), said.append)
            assert stack.child("dispatcher").pid != first
            assert "dispatcher" in said[0]
            everything = descendants(os.getpid()) - {os.getpid()}
        finally:
            stack.stop()
        mine = {stack_pid for stack_pid in everything if str(folder) in _command(stack_pid)}
        until(lambda: not running(mine), "every process of the stack to end")


def _command(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_killing_the_supervisor_leaves_no_process_behind(tmp_path: Path) -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "devstack", "demo", "--keep", "--report", str(tmp_path / "r.html")],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: len(descendants(supervisor.pid)) >= 6, "the stack to be up", timeout=60)
        below = descendants(supervisor.pid)
    finally:
        supervisor.kill()
        supervisor.wait(10)
    until(lambda: not running(below), f"{len(below)} processes to end", timeout=30)


def test_committed_rows_survive_kill_9_of_postgres() -> None:
    with throwaway_folder() as folder:
        from devstack.postgres import PostgresServer

        servers = folder / "servers"
        servers.mkdir()
        server = PostgresServer(as_unprivileged(servers), log=folder / "postgres.log", durable=True)
        server.start()
        try:
            plain = server.url.replace("+psycopg", "")
            with psycopg.connect(plain) as connection:
                connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            server.kill()
            server.start()
            with psycopg.connect(plain) as connection:
                assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        finally:
            server.stop()


def test_servers_ask_for_a_password() -> None:
    with throwaway_postgres() as server:
        without = re.sub(r":[^:@/]+@", ":wrong@", server.url.replace("+psycopg", ""))
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(without)
