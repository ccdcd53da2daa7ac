"""Once more with half the batch when memory does not suffice, and then no more."""

from collections.abc import Callable
from typing import TypeVar

import torch

from spinal.errors import OutOfMemory
from spinal.profile import MeasurementProfile

Result = TypeVar("Result")


def with_less_memory(work: Callable[[int], Result], profile: MeasurementProfile, device: str) -> Result:
    """``work`` at the profile's batch size and, if that runs out of memory, at half of it.

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
    for size in sizes:
        try:
            return work(size)
        except torch.OutOfMemoryError:
            pass
        # Outside the handler, where nothing holds the failed attempt's tensors any more.
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    raise OutOfMemory(
        f"{device} ran out of memory at batch size {' and at '.join(map(str, sizes))}",
        hint="lower batch_size or max_tokens, or use a larger device",
        batch_sizes=sizes,
    )
