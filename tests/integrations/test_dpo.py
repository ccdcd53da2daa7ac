"""Ten steps of DPO with TRL, audited in passing: what is logged, where, and that training itself is the same."""

import importlib.util
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from spinal.documents.schemas import load
from spinal.documents.series import Series
from tests.integrations.conftest import SECRET
from tests.support.scripted_series import Stage
from tests.support.training import SFT, dpo_trainer, logged

pytestmark = pytest.mark.model
FIVE = [2, 4, 6, 8, 10]
PROMPTS = 12
SMALL: dict[str, Any] = {
    "max_tokens": 16, "lens_positions": 2, "swap_prompts": 4, "stitch_prompts": 0, "greedy_prompts": 0,
}  # fmt: skip
Without = Callable[[str, str], NoReturn]


@pytest.fixture(scope="module", autouse=True)
def _trl(without: Without) -> None:
    for package in ("trl", "datasets", "tensorboard"):
        if importlib.util.find_spec(package) is None:
            without(package, "install spinal with its extra 'training'")


@pytest.fixture(scope="module")
def unaudited(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the run logs without the callback."""
    trainer = dpo_trainer(tmp_path_factory.mktemp("unaudited"), [])
    trainer.train()
    return logged(trainer)


def scores(trainer: Any) -> dict[int, dict[str, float]]:
    found = [entry for entry in trainer.state.log_history if "spinal/nll_change" in entry]
    assert len({entry["step"] for entry in found}) == len(found), "a member was logged twice"
    return {entry["step"]: entry for entry in found}


def in_tensorboard(out: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value of every event file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, float]] = {}
    for file in out.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, {}).update({event.step: event.value for event in events.Scalars(tag)})
    return found


def test_checkpoints_are_measured_here_and_losses_are_bit_for_bit_those_of_a_run_without_it(
    unaudited: list[dict[str, Any]], tmp_path: Path
) -> None:
    from spinal.integrations import SpinalCallback

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"Human: how do I plant tree number {n}?" for n in range(PROMPTS)))
    spool = tmp_path / "spool"
    callback = SpinalCallback(str(SFT), spool=spool, prompts=str(prompts), threads=1, final_wait=300.0, **SMALL)
    trainer = dpo_trainer(tmp_path / "out", [callback], report_to="tensorboard")
    trainer.train()

    assert logged(trainer) == unaudited
    found = scores(trainer)
    assert list(found) == FIVE
    assert [entry["spinal/damage"] for entry in found.values()] == [0.0] * 5
    drawn = in_tensorboard(tmp_path / "out")
    assert drawn["train/spinal/nll_change"] == pytest.approx(
        {step: entry["spinal/nll_change"] for step, entry in found.items()}, rel=1e-6
    ), "values in event files are float32"
    assert len(drawn["train/loss"]) == 10

    document = load(spool / ".spinal" / "series.json")
    assert isinstance(document, Series)
    assert [(member.step, member.state) for member in document.members] == [(step, "measured") for step in FIVE]
    assert document.closed
    changes = [entry["spinal/nll_change"] for entry in found.values()]
    assert changes == sorted(changes), "each step moves it further from where it began"
    assert list(spool.glob("checkpoint-*")) == []
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-10"]


def test_a_service_killed_in_the_middle_of_training_loses_no_member(
    unaudited: list[dict[str, Any]], stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import TrainerCallback

    from spinal.integrations import SpinalCallback

    class Outage(TrainerCallback):
        """From step 3 to step 8 the service is away."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                stage.is_killed()
            if state.global_step == 8:
                stage.starts()

    stage.starts()
    callback = SpinalCallback(
        "local:sft", spool=tmp_path / "spool", name="local:spool/run-1", server=stage.server, api_key=SECRET
    )
    trainer = dpo_trainer(tmp_path / "out", [callback, Outage()])
    trainer.train()
    assert logged(trainer) == unaudited
    assert list(scores(trainer)) == FIVE
    assert len(stage.series()) == 1
    assert stage.steps() == FIVE
    said = [record for record in caplog.records if record.levelno == logging.WARNING and "spinal" in record.name]
    assert len(said) <= 1


def test_a_resumed_run_goes_on_with_its_series(stage: Stage, tmp_path: Path) -> None:
    from spinal.integrations import SpinalCallback

    def made(steps: int) -> Any:
        callback = SpinalCallback(
            "local:sft", spool=tmp_path / "spool", server=stage.server, api_key=SECRET, close=False, final_wait=20.0
        )
        return dpo_trainer(tmp_path / "out", [callback], max_steps=steps)

    stage.starts()
    made(4).train()
    resumed = made(6)
    resumed.train(resume_from_checkpoint=True)
    assert len(stage.series()) == 1
    assert stage.steps() == [2, 4, 6]
    assert sorted(scores(resumed)) == [2, 4, 6]
    shutil.rmtree(tmp_path / "out")


def test_an_alarm_stops_a_real_trainer(stage: Stage, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    from spinal.integrations import SpinalCallback
    from tests.support.waiting import until

    stage.does("status", "destabilised")
    stage.starts()
    callback = SpinalCallback(
        "local:sft", spool=tmp_path / "spool", server=stage.server, api_key=SECRET, stop_on="destabilised"
    )

    class Patience(TrainerCallback):
        """The next step begins when the series was heard of, so that it is known where training stops."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                until(lambda: callback.standing, "the series")

    trainer = dpo_trainer(tmp_path / "out", [callback, Patience()])
    trainer.train()
    assert trainer.state.global_step == 3
