"""Kinds of rules: one file here and one entry in ``KINDS``, and the rule's members in ``spinal.documents.policy``."""

from spinal.policy.kinds.agreement import AGREEMENT
from spinal.policy.kinds.base import Answer, Context, Finding, Kind
from spinal.policy.kinds.limit import LIMIT
from spinal.policy.kinds.not_looked_at import NOT_LOOKED_AT
from spinal.policy.kinds.panel import PANEL
from spinal.policy.kinds.settings import SETTINGS

__all__ = ["KINDS", "Answer", "Context", "Finding", "Kind"]

KINDS: dict[str, Kind] = {kind.name: kind for kind in (LIMIT, AGREEMENT, SETTINGS, PANEL, NOT_LOOKED_AT)}
"""By the member ``kind`` of a rule."""
