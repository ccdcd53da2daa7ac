"""What the cache reads of its process's environment, and nothing else does."""

import os
from pathlib import Path

DECIDING = (
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "DNNL_", "ONEDNN_", "ATEN_", "TORCH_", "PYTORCH_", "CUDA_", "CUBLAS_",
    "NVIDIA_", "LD_PRELOAD",
)  # fmt: skip
"""How variables begin by which libraries choose threads, kernels, precision and devices."""


def cache_folder(of: str = "traces") -> Path:
    """Where entries of a kind are kept: a folder of that name in ``spinal`` below ``$XDG_CACHE_HOME``, or below
    ``~/.cache``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return base / "spinal" / of


def library_settings() -> dict[str, str]:
    """Variables of :data:`DECIDING`. They may hold anything: only a digest of them is written down."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(DECIDING)}
