"""Sentences on what changed at all: blocks that did not, what lies outside the blocks, settings."""

from collections.abc import Iterator

from spinal.analysis.statements.facts import Facts
from spinal.analysis.statements.words import named, runs, sentence, spans
from spinal.documents.account import CONFIGURATION
from spinal.documents.comparison import ComparisonContent, Statement
from spinal.documents.localization import NO_CHANGE

SHAPES_NOTHING = "which shapes prompts and generation and nothing that is compared here"
CHANGES_NOTHING = "which changes nothing that is compared here"
NOTHING_ON_PROMPTS = "which changes nothing on the prompts that were read"


def of_equal_weights(content: ComparisonContent, facts: Facts) -> Iterator[Statement]:
    """Both sides hold the same weights: what differs, if anything, is what the model is run with."""
    differs = facts.settings()
    place = content.localization.get("block_swap")
    jointly = place is not None and (place.center is not None or place.reason == NO_CHANGE)
    zero = f": every difference{'' if jointly else ' that was measured'} is exactly 0" if _all_zero(content) else ""
    both = "both sides hold the same weights"
    if facts.computing:
        # A bound beyond the longest prompt, or a member that this architecture never reads, computes nothing else.
        makes = "so that the same weights compute something else" if moved(content, facts) else NOTHING_ON_PROMPTS
        yield _settings(f"{both}{zero}; {differs}, {makes}")
        return
    configured = any(one.part == CONFIGURATION for one in facts.other)
    both += " and are run with the same configuration" if facts.compared_settings and not configured else ""
    if facts.other:
        yield _settings(f"{both}{zero}; {differs}, {_without_effect(facts)}")
    else:
        unknown = "" if facts.compared_settings else "; whether their configurations differ was not recorded"
        yield Statement(about="weights", kind="none", text=sentence(both + zero + unknown))


def _without_effect(facts: Facts) -> str:
    """Settings that shape nothing between token ids and logits; some of them are no part of generation either."""
    return CHANGES_NOTHING if any(one.part == CONFIGURATION for one in facts.other) else SHAPES_NOTHING


def moved(content: ComparisonContent, facts: Facts) -> bool:
    """Whether anything differs that was measured under both configurations; True where that was not measured."""
    measured = facts.compared_settings and any(layer.block_swap.value is not None for layer in content.layers)
    return not measured or not _all_zero(content)


def _all_zero(content: ComparisonContent) -> bool:
    """Whether every difference that has a value is exactly 0."""
    differences = (
        value
        for layer in content.layers
        for value in (
            layer.weight_change,
            layer.block_swap.value,
            *(
                one.value
                for both in (layer.d_contraction, layer.d_transport, layer.d_entropy, layer.function_gap)
                for one in (both.last, both.all)
            ),
        )
    )
    return all(value in (None, 0.0) for value in differences)


def of_blocks(facts: Facts) -> Iterator[Statement]:
    """Which blocks did not change."""
    if not facts.measured or not facts.same_tensors:
        return
    if facts.computing and len(facts.unchanged) < len(facts.same_tensors):
        apart = tuple(block for block in facts.same_tensors if block not in facts.unchanged)
        yield Statement(
            about="weights",
            kind="unchanged",
            text=sentence(
                f"{named(runs(apart))} hold the same tensors on both sides, and are run under another configuration"
            ),
        )
    if not facts.unchanged or not facts.changed:
        # That none changed is said by block swap, in one breath with what lies outside the blocks.
        return
    same = runs(facts.unchanged)
    text = f"only {named(facts.changed_runs)} changed; {spans(same)} {facts.alike(len(facts.unchanged))}"
    yield Statement(
        about="weights",
        kind="unchanged",
        text=sentence(text),
        null=f"training without frozen blocks changes all {facts.depth}",
        blocks=same,
    )


def of_outside(facts: Facts) -> Iterator[Statement]:
    """What changed and is no block."""
    elsewhere = facts.elsewhere()
    if elsewhere is not None:
        yield Statement(
            about="weights",
            kind="outside",
            text=sentence(f"outside the blocks, {elsewhere}"),
            null="block swap does not see them: it reads what blocks compute",
        )
    differs = facts.settings()
    if differs is not None:
        beside = "" if facts.computing else f", {_without_effect(facts)}"
        if facts.computing and facts.configuration_carries is False:
            beside = f", {NOTHING_ON_PROMPTS}"
        yield _settings(differs + beside)


def _settings(text: str) -> Statement:
    return Statement(about="settings", kind="outside", text=sentence(text))
