"""A trainer as its callbacks see it, without a model: it saves copies of a bundled checkpoint, and keeps one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.places import EXAMPLES

SFT = EXAMPLES / "checkpoints" / "sft"


def save_whole(folder: Path) -> None:
    """As a trainer saves: the model, its tokenizer, and what only a trainer needs."""
    shutil.copytree(SFT, folder)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"pickle")
    (folder / "trainer_state.json").write_text("{}")


class Tracker:
    """A callback that reports, as that of TensorBoard: it takes values until training ends."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.open = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        assert self.open, "logged after the end"
        self.logged.append((state.global_step, logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.open = False


class Trainer:
    """Calls its callbacks as transformers does."""

    def __init__(self, out: Path, *callbacks: Any, step: int = 0, main: bool = True, processes: int = 1) -> None:
        self.callbacks = list(callbacks)
        self.args = SimpleNamespace(output_dir=str(out), world_size=processes)
        self.state = SimpleNamespace(global_step=step, log_history=[], is_world_process_zero=main)
        self.control = SimpleNamespace(should_training_stop=False)

    def call_event(self, event: str, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for callback in self.callbacks:
            if hasattr(callback, event):
                getattr(callback, event)(args, state, control, **kwargs)

    def event(self, name: str) -> None:
        self.call_event(name, self.args, self.state, self.control)

    def begins(self) -> "Trainer":
        self.event("on_train_begin")
        return self

    def steps(self, to: int) -> None:
        while self.state.global_step < to:
            self.state.global_step += 1
            self.event("on_step_end")

    def saves(self, *steps: int, how: Callable[[Path], None] = save_whole) -> None:
        """At each of the steps a checkpoint, which is the only one that stays."""
        for step in steps:
            self.steps(step)
            for old in Path(self.args.output_dir).glob("checkpoint-*"):
                shutil.rmtree(old)
            how(Path(self.args.output_dir) / f"checkpoint-{step}")
            self.event("on_save")

    def ends(self) -> None:
        self.event("on_train_end")

    def hears(self) -> dict[int, dict[str, float]]:
        """What is in the history after one more look, by step."""
        self.event("on_step_end")
        return self.scores()

    def is_stopped(self) -> bool:
        """Whether it is to stop, after one more look."""
        self.event("on_step_end")
        return bool(self.control.should_training_stop)

    def scores(self) -> dict[int, dict[str, float]]:
        """What is in the history, by step."""
        return {
            entry["step"]: {name: value for name, value in entry.items() if name != "step"}
            for entry in self.state.log_history
        }
