"""Whether a device that was asked for is there."""

import torch

from spinal.errors import UsageError
from spinal.errors.faults import lacks_memory, reason

CPU = "leave --device out to measure on the CPU"


def check_device(name: str) -> None:
    """Raises UsageError where torch knows no such device, or none is at hand."""
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{name!r} is no device that torch knows", hint=f"for example cpu or cuda:0; {CPU}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no GPU"
        raise UsageError(f"no CUDA device: {why}", hint=CPU)
    try:
        # Only a number that comes back says that the device works.
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        if lacks_memory(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        raise UsageError(f"device {name} cannot be used ({reason(error)})", hint=CPU) from error
