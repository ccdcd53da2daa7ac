"""What may change the last bits of a measurement although no trace's digest names it."""

import hashlib
import platform
from functools import cache
from pathlib import Path

import numpy as np
import torch
import transformers

from spinal.analysis import contraction as fits


def conditions(device: str) -> dict[str, str]:
    """Device, libraries and settings of a measurement in this process, as text by name. Traces measured under equal
    conditions are equal bit for bit; under others a difference of nothing need not be exactly 0."""
    return {
        "device": device,
        "gpu": _gpu(device),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "precision": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "source": _source(),
    }


def _gpu(device: str) -> str:
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return ""
    try:
        return torch.cuda.get_device_name(device)
    except (RuntimeError, AssertionError, ValueError):
        # No such card: whoever loads the model says so.
        return ""


@cache
def _source() -> str:
    """sha256 over the engine's own files and the fit it uses: an engine being worked on must not be answered with what
    it measured before. A release names its engine by its edition."""
    hasher = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.rglob("*.py")), Path(fits.__file__)]:
        hasher.update(path.read_bytes())
    return hasher.hexdigest()
