"""Errors of the accelerator, of the operating system and of a caller's file, told apart from errors of ours."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from safetensors import SafetensorError

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.errors import ArchitectureUnsupported, DeviceFailed, SpinalError, faults

P = ParamSpec("P")
Result = TypeVar("Result")
SIGNS = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS", "HIP error", "CUDA unknown error",
    "CUDA driver initialization failed", "Unexpected error from cudaGetDeviceCount", "No CUDA GPUs are available",
    "Found no NVIDIA driver", "Torch not compiled with CUDA enabled", "The NVIDIA driver on your system")  # fmt: skip
"""Beginnings of what is said of a device that failed, or that is not there."""


def _of_device(error: Exception) -> bool:
    # A type of its own since torch 2.8; before that only the message tells.
    accelerator = getattr(torch, "AcceleratorError", ())
    return isinstance(error, accelerator) or (str(error).lstrip().startswith(SIGNS))


@contextmanager
def device_failures() -> Iterator[None]:
    """Turn a device-side assert, a lost device and their like into DeviceFailed. The process's context on the device
    is not usable afterwards. torch.OutOfMemoryError passes: it is no failure of the device."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    # torch says by an AssertionError that it was built for another machine.
    except (RuntimeError, AssertionError) as error:
        if not _of_device(error):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DeviceFailed(first, hint="look at the device's log; another attempt gets a fresh process") from error


@contextmanager
def callers_fault(make: Callable[[str], SpinalError]) -> Iterator[None]:
    """Turn whatever a library raises on a caller's file into ``make(reason)``, one short line
    (:func:`spinal.errors.faults.callers_fault`). Devices that fail raise DeviceFailed, and torch.OutOfMemoryError
    passes."""
    with faults.callers_fault(make, ours=(torch.OutOfMemoryError,)), device_failures():
        yield


def fault_of_checkpoints(work: Callable[P, Result]) -> Callable[P, Result]:
    """For a function that loads the checkpoints among its arguments and runs them for the first time: what a library
    raises there, and nobody has given a better name, is ArchitectureUnsupported."""

    @wraps(work)
    def guarded(*args: P.args, **members: P.kwargs) -> Result:
        with callers_fault(lambda why: _not_runnable(args, why)):
            return work(*args, **members)

    return guarded


def _not_runnable(args: tuple[object, ...], why: str) -> SpinalError:
    sides = " or ".join(each.source for each in args if isinstance(each, Checkpoint))
    return ArchitectureUnsupported(
        f"{sides} cannot be loaded and run ({why})",
        hint="load it with transformers and run one prompt: what fails there has to be mended first",
    )


@contextmanager
def architecture_failures(source: str) -> Iterator[None]:
    """Turn whatever a model's own code raises on a probe into ArchitectureUnsupported: it cannot be run on token ids
    alone. What :func:`callers_fault` lets pass passes."""

    def unsupported(why: str) -> SpinalError:
        return ArchitectureUnsupported(
            f"{source}: its own code fails on token ids alone ({why})",
            hint="only models that continue a text, given nothing but the text, have a depth trace; where the message "
            "is about a dtype, try dtype float32",
        )

    with callers_fault(unsupported):
        yield


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Give errors of the operating system their own type back: safetensors writes a full disk into the text of its own
    error, and whoever tries again has to be able to tell. The OSError names the last part of ``path``."""
    try:
        yield
    except SafetensorError as error:
        number = faults.system_error_number(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), path.name) from error
