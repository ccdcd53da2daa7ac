"""Once more with half the batch when memory does not suffice, and then no more."""

from collections.abc import Callable
from typing import TypeVar

import torch

from spinal.errors import OutOfMemory
from spinal.profile import MeasurementProfile

Result = TypeVar("Result")


def _nothing_kept() -> bool:
    return False


def with_less_memory(
    work: Callable[[int], Result],
    profile: MeasurementProfile,
    device: str,
    give_up: Callable[[], bool] = _nothing_kept,
) -> Result:
    """``work`` at the profile's batch size and, if that runs out of memory, at half of it; before that once more at
    the same size where ``give_up`` has freed what was only kept.

    ``work`` takes the number of prompts per forward pass and opens what it needs itself: nothing of a failed attempt
    is kept. ``device`` is what errors name. Raises OutOfMemory naming both sizes when neither suffices.

    Examples
    --------
    >>> from spinal.profile import MeasurementProfile
    >>> def work(batch_size):
    ...     if batch_size > 8:
    ...         raise torch.OutOfMemoryError("CUDA out of memory.")
    ...     return batch_size
    >>> with_less_memory(work, MeasurementProfile(batch_size=16), "cpu")
    8
    """
    sizes = [profile.batch_size] + ([profile.batch_size // 2] if profile.batch_size > 1 else [])
    waiting = list(sizes)
    while waiting:
        try:
            return work(waiting[0])
        except torch.OutOfMemoryError:
            pass
        # Outside the handler, where nothing holds the failed attempt's tensors any more.
        if not give_up():
            del waiting[0]
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    raise OutOfMemory(
        f"{device} ran out of memory at batch size {' and at '.join(map(str, sizes))}",
        hint="lower batch_size or max_tokens, or use a larger device",
        batch_sizes=sizes,
    )
