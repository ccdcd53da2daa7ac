"""Sentences on a profile over blocks that has a place: outliers, then bands or spread. The same for every profile."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from spinal.analysis.statements.facts import Facts
from spinal.analysis.statements.shape import CHANCE_DRAWS, SHARE, Bands, Outliers, bands, outliers
from spinal.analysis.statements.words import named, runs, sentence
from spinal.documents.comparison import Statement
from spinal.numbers import share

Array = npt.NDArray[np.float64]


def placed(what: str, about: str, weights: Array, blocks: Sequence[int], facts: Facts) -> Iterator[Statement]:
    """Sentences on ``weights`` (n,) over the changed ``blocks``; ``what`` they are weights of, in words."""
    if len(blocks) == 1:
        yield Statement(
            about=about,
            kind="band",
            text=sentence(f"all of {what} sits in block {blocks[0]}, the only one that changed"),
            null="with one changed block there is no other place",
            blocks=((blocks[0], blocks[0]),),
        )
        return
    far = outliers(weights)
    if far.places:
        found = tuple(blocks[i] for i in far.places)
        stands, holds = ("stands", "holds") if len(found) == 1 else ("stand", "hold")
        yield Statement(
            about=about,
            kind="outlier",
            text=sentence(f"{named(runs(found))} {stands} out and {holds} {share(far.share)} of {what}"),
            null=chance_in_words(far, len(blocks), "blocks"),
            blocks=runs(found),
        )
    yield from beside_outliers(what, about, weights, blocks, far.places, facts)


def beside_outliers(
    what: str, about: str, weights: Array, blocks: Sequence[int], far: Sequence[int], facts: Facts
) -> Iterator[Statement]:
    """How ``weights`` (n,) lie over ``blocks`` without those at ``far``, if that is a fifth of them or more."""
    rest = [i for i in range(len(blocks)) if i not in far]
    left = weights[rest]
    if left.any() and left.sum() > (1 - float(SHARE)) * weights.sum():
        shape = bands(left, [blocks[i] for i in rest], facts.changed_runs)
        yield _spread_out(f"the rest of {what}" if far else what, about, shape, len(rest), facts, whole=not far)


def chance_in_words(far: Outliers, count: int, of: str) -> str:
    """What a flat profile and normal scatter would give."""
    rarely = (
        f"in 1 of {round(1 / far.chance)} cases" if far.chance > 0.0 else f"in fewer than 1 of {CHANCE_DRAWS} cases"
    )
    flat = share(len(far.places) / count)
    return f"flat would be {flat}; normal scatter alone puts one of {count} {of} as far above the rest {rarely}"


def _spread_out(what: str, about: str, shape: Bands, count: int, facts: Facts, *, whole: bool) -> Statement:
    """Bands, or that there are none. ``whole`` says that no outlier was set aside."""
    over = "changed blocks" if whole else "blocks beside"
    null = f"a flat profile over the {count} {over} would need {shape.flat} for 80%"
    if shape.spread:
        everywhere = len(facts.changed) == facts.depth
        place = "the depth" if everywhere else f"the changed blocks, {named(facts.changed_runs).partition(' ')[2]}"
        held = f"80% needs {shape.needed} of {count} blocks" if shape.windows else "no two runs of blocks hold 80%"
        return Statement(
            about=about,
            kind="spread",
            text=sentence(f"{what} is spread over {place}: {held}"),
            null=null,
            blocks=facts.changed_runs,
        )
    if len(shape.windows) == 1:
        where = f"sits in {named(shape.windows)}"
    else:
        where = f"sits in two bands, {named(shape.windows)}{_between(shape.windows, facts)}"
    return Statement(about=about, kind="band", text=sentence(f"80% of {what} {where}"), null=null, blocks=shape.windows)


def _between(windows: Sequence[tuple[int, int]], facts: Facts) -> str:
    between = range(windows[0][1] + 1, windows[1][0])
    identical = [block for block in between if block in facts.unchanged]
    if not identical:
        return ""
    return f"; between them {named(runs(identical))} {facts.alike(len(identical))}"
