"""Sentences on what computes something else: block swap."""

from collections.abc import Iterator

import numpy as np

from spinal.analysis.statements.facts import Facts
from spinal.analysis.statements.placed import placed
from spinal.analysis.statements.words import named, reason_in_words, runs, sentence
from spinal.documents.account import FRAME_CHANGED, WITHIN_ROUNDING
from spinal.documents.comparison import ComparisonContent, Statement
from spinal.documents.localization import NO_CHANGE
from spinal.numbers import number, share

WHAT = "the change in what blocks compute"
ON_PROMPTS = " on the prompts that were read"


def of_block_swap(content: ComparisonContent, facts: Facts) -> Iterator[Statement]:
    """Where block swap places the change, or why it places none."""
    place = content.localization.get("block_swap")
    reason = None if place is None else place.reason
    if (content.frame is not None and content.frame.changed) or reason == FRAME_CHANGED:
        yield _nothing(_other_frame(content))
    elif facts.perhaps_another_basis:
        yield _nothing(_perhaps_other_frame(content), kind="not_measured")
    elif reason == WITHIN_ROUNDING:
        beside = _beside(facts)
        yield _nothing(
            f"blocks compute the same within rounding{ON_PROMPTS}: block swap shows no more than reordered "
            "sums give, which has no place" + beside,
            kind="outside" if beside else "none",
        )
    elif place is None or (place.center is None and reason != NO_CHANGE):
        yield _nothing(
            f"whether and where blocks compute something else was not measured ({reason_in_words(reason)})",
            kind="not_measured",
        )
    elif place.center is None:
        yield _no_block(facts)
    else:
        yield from _placed(content, facts)


def _placed(content: ComparisonContent, facts: Facts) -> Iterator[Statement]:
    changed = facts.changed
    swaps = {layer.layer: layer.block_swap.value or 0.0 for layer in content.layers[1:]}
    weights = np.array([swaps[block] for block in changed])
    if not weights.any():
        # A document whose members contradict each other gets the sentence that its numbers support.
        yield _no_block(facts)
        return
    yield from placed(WHAT, "block_swap", weights, changed, facts)


def _no_block(facts: Facts) -> Statement:
    """No block computes anything else: never without what changed beside the blocks."""
    beside = _beside(facts)
    if facts.measured and not facts.changed:
        text = f"no block changed: all {facts.depth} {facts.alike(facts.depth)}"
    else:
        text = f"no block computes anything else than in the reference{ON_PROMPTS}{_though(facts)}"
    return _nothing(text + beside, kind="outside" if beside else "none")


def _though(facts: Facts) -> str:
    if not facts.measured:
        return ""
    others = [block for block in range(1, facts.depth + 1) if block not in facts.same_tensors]
    return f", though the tensors of {named(runs(others))} differ" if others else ""


def _beside(facts: Facts) -> str:
    parts = [part for part in (facts.elsewhere(), facts.settings()) if part is not None]
    return f"; outside the blocks, {', and '.join(parts)}" if parts else ""


def _other_frame(content: ComparisonContent) -> str:
    frame = content.frame
    numbers = []
    if frame is not None and frame.residual is not None:
        numbers.append(f"one rotation and scale leaves {share(frame.residual)} over")
    if frame is not None and frame.gap is not None:
        numbers.append(f"outputs lie {number(frame.gap, 2)} rad apart")
    why = f" ({'; '.join(numbers)})" if numbers else ""
    return (
        f"the two sides write their residuals in different bases{why}: block swap compares coordinates, so it places "
        "nothing here"
    )


def _perhaps_other_frame(content: ComparisonContent) -> str:
    frame = content.frame
    left = "" if frame is None or frame.residual is None else f" ({share(frame.residual)} is left over)"
    return (
        f"one rotation and scale makes up for most of what the last residuals differ by{left}, and outputs differ as "
        "well: which blocks compute something else, and which only write in another basis, cannot be told"
    )


def _nothing(text: str, *, kind: str = "none") -> Statement:
    return Statement.model_validate({"about": "block_swap", "kind": kind, "text": sentence(text)})
