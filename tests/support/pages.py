"""Stored documents as pages of a report, for the browser's tests and the pictures."""

import gzip
import json
from pathlib import Path

from spinal.documents.comparison import Comparison
from spinal.documents.series import Series
from spinal.documents.trace import Trace
from spinal.policy.decide import judged
from spinal.report import FORMATS
from spinal.report.formats.format import Reader
from spinal.report.reported import Reported

RECORDED = Path(__file__).resolve().parent.parent / "browser" / "recorded"


def recorded(name: str) -> Reported:
    """A stored document; a comparison under the verdict of the present default policy."""
    stored = json.loads(gzip.decompress((RECORDED / f"{name}.json.gz").read_bytes()))
    if stored["schema"] == "spinal.trace/1":
        return Trace.model_validate(stored)
    if stored["schema"] == "spinal.series/1":
        return Series.model_validate(stored)
    return judged(Comparison.model_validate(stored))


def page_of(document: Reported) -> str:
    """Its page; of a training run with a link from every checkpoint to its audit, as a server has them."""
    links = {}
    if isinstance(document, Series):
        links = {
            f"step {member.step}": f"https://spinal.example/v1/audits/{member.audit}/report?format=html"
            for member in document.members
            if member.audit
        }
    return FORMATS["html"].written(document, Reader(links=links))
