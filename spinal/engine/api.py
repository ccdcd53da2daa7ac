"""The engine's two entry points, as the worker and the command line call them."""

from spinal.engine.measure import measure
from spinal.engine.pair import gather_evidence

__all__ = ["gather_evidence", "measure"]
