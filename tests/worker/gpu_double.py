"""An engine that is imported and never called. It writes down the GPU that its process sees meanwhile, which is when
the real one imports torch: one file for each process, in the folder ``SPINAL_DOUBLE_DIR``."""

import os
from pathlib import Path

_seen = Path(os.environ["SPINAL_DOUBLE_DIR"]) / f"gpu-{os.getpid()}"
_seen.with_suffix(".partial").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
_seen.with_suffix(".partial").rename(_seen)
