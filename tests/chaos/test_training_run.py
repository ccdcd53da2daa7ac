"""A training run feeds a service whose API is killed meanwhile: real processes, an engine double."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from spinal.client import Client
from spinal.integrations.callback import Hooks
from tests.support.fleet import Fleet
from tests.support.trainers import SFT, Trainer, save_whole
from tests.support.waiting import until

FIVE = [2, 4, 6, 8, 10]


@pytest.fixture
def server(fleet: Fleet, tmp_path: Path) -> Callable[[], str]:
    """Starts the API; returns its address."""
    shutil.copytree(SFT, tmp_path / "models" / "sft")
    fleet.environment |= {"SPINAL_MODEL_ROOTS": str(tmp_path / "models"), "SPINAL_AUTH": "disabled"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"

    def start() -> str:
        fleet.start("api", "-m", "uvicorn", "service.app:create_app", "--factory", "--port", str(port))
        with Client(address) as client:
            until(client.ready, "the API", timeout=60.0)
        return address

    return start


def save_differently(folder: Path) -> None:
    """Other weights at every step: the last number of the file is the step."""
    save_whole(folder)
    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-2:] = int(folder.name.rpartition("-")[2]).to_bytes(2, "little")
    weights.write_bytes(raw)


def test_an_api_that_is_killed_during_a_training_run_loses_no_member(
    fleet: Fleet, server: Callable[[], str], tmp_path: Path
) -> None:
    fleet.start_dispatcher()
    fleet.start_worker()
    callback = Hooks(
        "local:sft", spool=tmp_path / "models" / "spool" / "run-1", name="local:spool/run-1", server=server(),
        final_wait=120.0,
    )  # fmt: skip
    trainer = Trainer(tmp_path / "out", callback).begins()
    trainer.saves(2, how=save_differently)
    until(trainer.hears, "the first score", timeout=120.0)
    fleet.children["api"].kill()
    trainer.saves(4, 6, how=save_differently)
    address = server()
    trainer.saves(8, 10, how=save_differently)
    trainer.ends()
    assert sorted(trainer.scores()) == FIVE
    series = callback.series
    assert series is not None
    with Client(address) as client:
        document = client.series_document(series)
        audits = list(client.audits())
    assert [(member.step, member.state) for member in document.members] == [(step, "measured") for step in FIVE]
    assert len(audits) == len(FIVE), "a member was audited twice"
    assert list((tmp_path / "models" / "spool" / "run-1").glob("checkpoint-*")) == []
