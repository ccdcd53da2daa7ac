"""Where one profile over the blocks concentrates."""

from spinal.documents.base import Document, Finite

NO_CHANGE = "no_detectable_change"
"""Reason of a localization that was measured and found nothing to place."""


class Localization(Document):
    """Where one profile w over blocks 1..D concentrates (``docs/method.md`` ("Where the change sits")). Without a
    detectable change every member is null and ``reason`` says why."""

    center: Finite | None
    """Centre of mass of q = w / sum w on x = l / D."""
    spread: Finite | None
    window50: tuple[int, int] | None
    """Smallest contiguous run of blocks holding half of w (first, last)."""
    window80: tuple[int, int] | None
    gini: Finite | None
    effective_blocks: Finite | None
    terminal_share: Finite | None
    terminal_share_null: Finite
    """|T| / D: the share if w were flat."""
    peak: int | None
    ci: dict[str, tuple[Finite, Finite]]
    """95% intervals of center, spread, terminal_share, gini, effective_blocks, where w has replicates."""
    peak_support: Finite | None = None
    """Share of bootstrap draws that name the same peak."""
    reason: str | None = None
