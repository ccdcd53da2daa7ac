"""Logging by way of the trainer, so that scores stand where the user's losses stand."""

import copy
import sys
from collections.abc import Mapping
from typing import Any


class TrainerLog:
    """The callbacks of one trainer, ours among them: its TensorBoard, W&B, MLflow and whatever else it reports to."""

    def __init__(self, handler: Any | None) -> None:
        self._handler = handler

    @property
    def known(self) -> bool:
        return self._handler is not None

    def go_first(self, callback: Any) -> None:
        """Be called before the callbacks that report: at the end of training they close what scores are written to."""
        if self._handler is not None:
            # Another list: the trainer is going through the present one.
            self._handler.callbacks = [callback, *(each for each in self._handler.callbacks if each is not callback)]

    def log(self, args: Any, state: Any, control: Any, step: int, scores: Mapping[str, float]) -> None:
        """Log values at ``step``, which lies before the present one, in the trainer's history and in all that it
        reports to. Not by ``Trainer.log``: that would log at the present step, and trainers begin their means of losses
        anew there."""
        state.log_history.append({**scores, "step": step})
        if self._handler is not None:
            then = copy.copy(state)
            then.global_step = step
            # A copy of the flags, too: a callback may change them when it is told of a log.
            self._handler.call_event("on_log", args, then, copy.copy(control), logs=dict(scores))


def logged_steps(state: Any, prefix: str) -> set[int]:
    """The steps for which the trainer's history holds values whose key begins so."""
    return {
        entry["step"]
        for entry in state.log_history
        if "step" in entry and any(str(key).startswith(prefix) for key in entry)
    }


def find_trainer_log(callback: Any) -> TrainerLog:
    """The log of the trainer that is calling ``callback`` now. transformers hands its callbacks neither the trainer nor
    each other, so it is found among the callers: the one whose callbacks hold this one."""
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        callbacks = getattr(caller, "callbacks", None)
        if (
            isinstance(callbacks, list)
            and any(each is callback for each in callbacks)
            and hasattr(caller, "call_event")
        ):
            return TrainerLog(caller)
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return TrainerLog(None)
