"""Where, in words: one builder of sentences for the report, the terminal, the API and the verdict
(``docs/method.md`` ("The sentence"))."""

from spinal.analysis.statements.blocks import of_block_swap
from spinal.analysis.statements.carries import of_accounts
from spinal.analysis.statements.changed import moved, of_blocks, of_equal_weights, of_outside
from spinal.analysis.statements.facts import facts_of
from spinal.documents.comparison import ComparisonContent, Statement

__all__ = ["said", "statements"]


def said(content: ComparisonContent) -> tuple[Statement, ...]:
    """The sentences that a comparison carries; those of an earlier release carry none, and get them here."""
    return content.statements or statements(content)


def statements(content: ComparisonContent) -> tuple[Statement, ...]:
    """What changed, what computes something else and what carries the change, each with its null.

    Pure, and from the document's own members. In order: blocks that did not change, what changed outside them, then for
    block swap and for the account that speaks places that stand out, bands, or that the change is spread.
    """
    facts = facts_of(content)
    # A checkpoint is called by its configuration, too: other settings make another one of the same weights.
    if facts.same_weights:
        equal = tuple(of_equal_weights(content, facts))
        place = content.localization.get("block_swap")
        if (not facts.computing or not moved(content, facts)) and (place is None or place.center is None):
            return equal
        return (*equal, *of_block_swap(content, facts), *of_accounts(content, facts))
    swapped = tuple(of_block_swap(content, facts))
    # Where no block computes anything else, the same sentence says what changed outside the blocks.
    outside = () if any(one.kind == "outside" for one in swapped) else tuple(of_outside(facts))
    return (*of_blocks(facts), *outside, *swapped, *of_accounts(content, facts))
