"""Stored documents as pages of a report, for the browser's tests and the pictures."""

import gzip
import json
from pathlib import Path

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.policy.decide import judged

RECORDED = Path(__file__).resolve().parent.parent / "browser" / "recorded"


def recorded(name: str) -> Comparison | Trace:
    """A stored document; a comparison under the verdict of the present default policy."""
    stored = json.loads(gzip.decompress((RECORDED / f"{name}.json.gz").read_bytes()))
    if stored["schema"] == "spinal.trace/1":
        return Trace.model_validate(stored)
    return judged(Comparison.model_validate(stored))
