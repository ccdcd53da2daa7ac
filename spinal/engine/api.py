"""The engine's entry points, as the worker and the command line call them."""

from spinal.engine.measure import measure
from spinal.engine.pair import gather_accounts, gather_evidence
from spinal.engine.tokens import check_same_ids

__all__ = ["check_same_ids", "gather_accounts", "gather_evidence", "measure"]
