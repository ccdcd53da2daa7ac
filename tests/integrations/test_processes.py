"""Training in several processes: all of them stop at the same step."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT
from tests.support.scripted_series import Stage

pytestmark = pytest.mark.model
RANK = """
import sys
from pathlib import Path
from accelerate import PartialState
import spinal.client
from spinal.integrations.callback import Hooks
from tests.integrations.conftest import SeriesCalls
from tests.support.trainers import Trainer, save_whole
from tests.support.waiting import until

spinal.client.Client = SeriesCalls
state = PartialState(cpu=True)
assert state.num_processes == 2
folder, server = Path(sys.argv[1]), sys.argv[2]
main = state.process_index == 0
callback = Hooks("local:sft", spool=folder / "spool", server=server, stop_on="destabilised", final_wait=0.0)
trainer = Trainer(folder / f"out-{state.process_index}", callback, main=main, processes=2).begins()
trainer.saves(2)
print("after 2:", trainer.control.should_training_stop)
if main:
    (folder / "service" / "status").write_text("destabilised")
    until(lambda: callback.standing and callback.standing.status == "destabilised", "the alarm")
trainer.steps(3)
print("after 3:", trainer.control.should_training_stop)
trainer.saves(4)
print("after 4:", trainer.control.should_training_stop)
trainer.ends()
"""


def test_an_alarm_stops_every_process_at_the_same_save(stage: Stage, tmp_path: Path) -> None:
    stage.does("holds")
    stage.starts()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    together = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", RANK, str(tmp_path), stage.server]
    ranks = [
        subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE,
            env=together | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [rank.communicate(timeout=120)[0].splitlines() for rank in ranks]
    assert said == [["after 2: False", "after 3: False", "after 4: True"]] * 2
