"""Which prompts are scored, swapped, stitched and continued: one order over a set, of which every sample is a start.

The rule, for P prompts in categories of N_c prompts:

1. A fixed seed draws one order of all prompts; inside a category prompts are taken in it.
2. First, in rounds, one prompt of every category that has one left, the largest category first, until each gave
   ``FLOOR`` prompts or all it has: a kind of prompt that is rare in the set is still looked at.
3. Then always of the category that is furthest behind its share: the one with the largest N_c / (2 k_c + 1), k_c of its
   prompts being taken (the divisors of Sainte-Lague: beyond the floors, no whole numbers of prompts lie closer to the
   shares).

Categories of one size come in the order in which the set first shows them. So the order follows from the prompts and
from who shares a category with whom, never from how a category is spelled. A sample of n are the first n that have what
it needs: smaller samples lie within larger ones.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from spinal.prompts.sets import Prompt

IntArray = npt.NDArray[np.int64]
SEED = 20261128
"""Of the order of all prompts. Fixed: a profile fixes which prompts are sampled."""
FLOOR = 4
"""Prompts of every category that come before shares count."""
WIDE = frozenset({"FULLWIDTH", "HALFWIDTH"})
NO_SCRIPT = frozenset((
    "MODIFIER", "MATHEMATICAL", "SUPERSCRIPT", "SUBSCRIPT", "FEMININE", "MASCULINE", "MICRO", "DOUBLE-STRUCK", "SCRIPT",
    "BLACK-LETTER", "KELVIN", "ANGSTROM", "OHM", "TURNED",
))  # fmt: skip
"""First words in the names of letters that belong to no script."""
SPEAKERS = re.compile(r"^(Human|Assistant):", re.MULTILINE)
"""What marks the turns of hh-rlhf, whatever is spoken."""


def categories_of(prompts: Sequence[Prompt], given: Sequence[str | None] = ()) -> tuple[str | None, ...]:
    """Category of each prompt: the one ``given``, else the script that most of its letters are of, where the prompts
    hold more than one script. Empty where nothing tells the prompts apart.

    Examples
    --------
    >>> categories_of(("Why is it blue?", "\u041f\u043e\u0447\u0435\u043c\u0443?"))
    ('Latin script', 'Cyrillic script')
    >>> categories_of(("Why is it blue?", "How tall is it?"))
    ()
    >>> categories_of(("Why is it blue?", "How tall is it?"), ("colours", None))
    ('colours', None)
    """
    scripts = [_script(prompt) for prompt in prompts]
    several = len(set(filter(None, scripts))) > 1
    found = tuple(
        category if category is not None or not several else script
        for category, script in zip(given or [None] * len(scripts), scripts, strict=True)
    )
    return found if any(found) else ()


def _script(prompt: Prompt) -> str | None:
    """Of most letters of a prompt, the first one met where two have as many; None where there is no letter."""
    text = prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)
    counts: Counter[str] = Counter()
    for letter, count in Counter(filter(str.isalpha, SPEAKERS.sub("", text))).items():
        words = [word for word in unicodedata.name(letter, "").split() if word not in WIDE]
        if words and words[0] not in NO_SCRIPT:
            counts[words[0]] += count
    if not counts:
        return None
    most = counts.most_common(1)[0][0]
    return f"{most if most == 'CJK' else most.capitalize()} script"


def sample_order(count: int, categories: Sequence[str | None], sampling: Literal["first", "stratified"]) -> IntArray:
    """All of ``count`` prompts (P,) in the order in which samples take them; ``categories`` are those of
    :func:`categories_of`. Under ``first`` they stay as they are.

    Examples
    --------
    >>> sample_order(4, (), "first").tolist()
    [0, 1, 2, 3]
    >>> rare = ["common"] * 97 + ["rare"] * 3
    >>> sorted(sample_order(100, rare, "stratified")[:8].tolist())[-3:]
    [97, 98, 99]
    """
    if sampling == "first":
        return np.arange(count, dtype=np.int64)
    drawn = np.random.default_rng(SEED).permutation(count)
    kinds = tuple(categories) or (None,) * count
    sizes = Counter(kinds)  # in order of first appearance, which sorting by size keeps among equals
    rank = {kind: place for place, kind in enumerate(sorted(sizes, key=lambda kind: -sizes[kind]))}
    taken: Counter[str | None] = Counter()
    place_in_kind = np.empty(count, dtype=np.int64)
    for prompt in drawn.tolist():
        place_in_kind[prompt] = taken[kinds[prompt]]
        taken[kinds[prompt]] += 1

    def turn(prompt: int) -> tuple[int, float, int]:
        """The larger N_c / (2 k + 1) comes first; below the floor, the smaller k."""
        kind, k = kinds[prompt], int(place_in_kind[prompt])
        return (k, 0.0, rank[kind]) if k < FLOOR else (FLOOR, (2 * k + 1) / sizes[kind], rank[kind])

    return np.array(sorted(range(count), key=turn), dtype=np.int64)


def take(order: IntArray, eligible: npt.NDArray[np.bool_] | None, n: int) -> IntArray:
    """The sample of at most ``n`` prompts among those that are ``eligible`` (P,) bool (all where None), ascending.

    Examples
    --------
    >>> take(np.array([3, 0, 2, 1]), np.array([True, True, True, False]), 2).tolist()
    [0, 2]
    """
    chosen = order if eligible is None else order[eligible[order]]
    return np.sort(chosen[: max(n, 0)])
