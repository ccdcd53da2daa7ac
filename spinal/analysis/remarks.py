"""What a reader must know before believing a number: the warnings of a comparison, in words."""

from collections.abc import Iterator, Mapping

import numpy as np

from spinal.analysis.carried import Carried
from spinal.analysis.contraction import window_ranks
from spinal.analysis.layers import Pair
from spinal.analysis.statements.carries import speaking
from spinal.documents.account import NOT_SIGNIFICANT, Account, AccountContrast
from spinal.documents.comparison import Damage, LayerComparison, Localization, Null, Scores
from spinal.documents.names import by_role
from spinal.documents.trace import NOTABLE, POSITIONS, Trace
from spinal.numbers import number, signed

INSUFFICIENT_RANK = "insufficient_rank"
FEW_PROMPTS = 20
"""Below this many prompts bootstrap intervals are known to be too short."""
NEARLY_ALL = 0.95
APART = 1 / 3
"""Two profiles disagree when their centres lie further apart than a third of the depth."""


def remarks(
    pair: Pair,
    layers: tuple[LayerComparison, ...],
    localization: Mapping[str, Localization],
    scores: Scores,
    damage: Damage,
    nulls: Mapping[str, Null],
    carried: Carried,
    control: Trace | None = None,
) -> tuple[str, ...]:
    """Warnings in the order in which they should be read."""
    sides = {"reference": pair.reference, "candidate": pair.candidate} | ({"control": control} if control else {})
    if pair.evidence.absent is not None:
        return (
            *_of_absence(pair, pair.evidence.absent),
            *_of_damage(damage, scores),
            *(() if pair.identical else _of_controls(nulls)),
            *_of_place(localization),
            *_of_windows(pair, layers),
            *_of_positions(layers),
            *_of_readout(pair),
            *_of_traces(pair),
            *_of_sides(sides),
        )
    if pair.identical:
        return (
            "both sides hold the same weights: every difference is exactly zero",
            *_of_traces(pair),
            *_of_sides(sides),
        )
    return (
        *_of_damage(damage, scores),
        *_of_controls(nulls),
        *_of_accounts(carried.accounts, carried.contrasts),
        *_of_swap(pair),
        *_of_place(localization),
        *_of_windows(pair, layers),
        *_of_positions(layers),
        *_of_readout(pair),
        *_of_traces(pair),
        *_of_sides(sides),
    )


def _of_absence(pair: Pair, reason: str) -> Iterator[str]:
    """What nothing here can say because no joint pass over the pair was made."""
    yield (
        f"no joint pass over both checkpoints was made ({reason.replace('_', ' ')}): block swap, weight change, "
        "function gap and hidden change were not measured, so nothing here tells which blocks changed or whether the "
        "candidate still works"
    )
    if pair.identical:
        yield "both traces name the same weights: what differs comes from measuring them"
    sides = [trace.engine for trace in (pair.reference, pair.candidate)]
    apart = [name for name in ("device", "torch", "transformers") if len({getattr(side, name) for side in sides}) > 1]
    if apart:
        yield (
            f"the traces were measured under different conditions ({', '.join(apart)}): a difference of the size of "
            "rounding may be theirs"
        )


def _of_damage(damage: Damage, scores: Scores) -> Iterator[str]:
    if damage.level != "none" and scores.delta_align is not None:
        yield (
            f"damage is '{damage.level}': a damaged model can show a stronger signature than a healthy one, "
            f"so delta_align = {signed(scores.delta_align, 4)} must not be read as success"
        )


def _of_controls(nulls: Mapping[str, Null]) -> Iterator[str]:
    if "control" not in nulls:
        yield (
            "no control checkpoint was given: this comparison cannot tell DPO from ordinary fine-tuning, which "
            "concentrates late in most runs too"
        )
    else:
        contrast = nulls["control"].contrast["delta_align"]
        if contrast.value is not None and not contrast.significant:
            yield (
                f"delta_align cannot be told from that of the control: they differ by {signed(contrast.value, 4)}"
                + (f", 95% interval {signed(contrast.ci[0], 4)} to {signed(contrast.ci[1], 4)}" if contrast.ci else "")
            )
    noise = nulls.get("matched_noise")
    if noise is not None and noise.percentile is not None and noise.percentile < 95:
        yield (
            f"|delta_align| = {number(noise.observed, 4)} is not beyond what random changes of the same size do "
            f"(percentile {noise.percentile:.0f} of {len(noise.values)} draws)"
        )
    floor = nulls["self"]
    if floor.percentile is not None and floor.percentile < 95:
        yield (
            f"|delta_align| = {number(floor.observed, 4)} is not beyond its floor "
            f"(percentile {floor.percentile:.0f} of {len(floor.values)} values): {floor.note}"
        )


def _of_accounts(accounts: dict[str, Account], contrasts: Mapping[str, AccountContrast]) -> Iterator[str]:
    """What an account of what carries the change cannot tell."""
    told = speaking(accounts)
    placed = told is not None and told.reason is None
    if placed and told is accounts.get("kl"):
        margin = accounts.get("margin")
        yield (
            "what carries the change is told by KL to the reference, whose account looks alike for any fine-tune (a "
            "seed and a control agree with Spearman .84, two seeds with .90): it does not tell what carries a "
            "preference; "
            + (
                "give pairs of preferred and rejected answers for that"
                if margin is None
                else "the account of the margin does not either "
                f"({(margin.reason or NOT_SIGNIFICANT).replace('_', ' ')})"
            )
        )
    for read_out, contrast in contrasts.items():
        if contrast.total.significant is False and contrast.total.ci is not None:
            yield (
                f"the total of {read_out} cannot be told from that of the control: they differ by "
                f"{signed(contrast.total.value, 4)} nats, 95% interval {signed(contrast.total.ci[0], 4)} to "
                f"{signed(contrast.total.ci[1], 4)}"
            )
    if placed and not contrasts:
        yield (
            "no account of a control stands beside: whether ordinary fine-tuning would have its change carried by the "
            "same places cannot be told"
        )


def _of_swap(pair: Pair) -> Iterator[str]:
    holes = np.flatnonzero(~np.isfinite(pair.evidence.block_swap).all(axis=0)) + 1
    if holes.size:
        yield (
            f"block_swap has no finite value for some prompts at blocks {', '.join(map(str, holes))}: the reference's "
            "block adds nothing there, or the candidate's block overflows on the reference's input; those prompts are "
            "left out, so block_swap is too low where they overflowed"
        )


def _of_place(localization: Mapping[str, Localization]) -> Iterator[str]:
    share = localization["block_swap"].terminal_share
    if share is not None and share > NEARLY_ALL:
        yield (
            f"terminal share of block_swap is {share:.3f}: nothing earlier moved (frozen blocks or a late adapter give "
            "this whatever was trained)"
        )
    # Permuted neurons and folded gains move weights where the function stays: their place is shown and argues nothing.
    centers = {
        name: place.center for name, place in localization.items() if place.center is not None and name != "weights"
    }
    if centers:
        low, high = min(centers, key=lambda n: centers[n] or 0.0), max(centers, key=lambda n: centers[n] or 0.0)
        if (centers[high] or 0.0) - (centers[low] or 0.0) > APART:
            yield (
                f"the profiles disagree on the place: centre of {low} at depth {centers[low]:.2f}, of {high} at "
                f"{centers[high]:.2f}; block_swap is the one validated on known places"
            )


def _of_windows(pair: Pair, layers: tuple[LayerComparison, ...]) -> Iterator[str]:
    for positions in POSITIONS:
        agreement = [
            {str(name): agrees for name, agrees in layer.d_contraction.window_agreement.items()} for layer in layers
        ]
        split = sum(node[positions] is False for node in agreement)
        if split:
            yield (
                f"the sign of d_contraction ({positions}) depends on the fit window at {split} of {len(layers)} nodes; "
                f"window '{pair.profile.window_for(positions)}' is the one reported"
            )


def _of_positions(layers: tuple[LayerComparison, ...]) -> Iterator[str]:
    for member in ("d_contraction", "d_transport", "d_entropy"):
        both = [
            str(layer.layer)
            for layer in layers
            if member in layer.sign_disagreement
            and getattr(layer, member).last.significant
            and getattr(layer, member).all.significant
        ]
        if both:
            yield f"{member} is significant with opposite signs under 'last' and 'all' at layers {', '.join(both)}"


def _of_readout(pair: Pair) -> Iterator[str]:
    if pair.evidence.readout_moved:
        yield (
            "the read-out (final norm or unembedding) moved, which alone can fake a late change: d_transport and "
            "d_entropy hold it too; "
            + (
                "d_transport_fixed_lens reads the candidate through the reference's read-out"
                if pair.evidence.absent is None
                else "d_transport_fixed_lens, which would tell them apart, needs the weights"
            )
        )


def _of_traces(pair: Pair) -> Iterator[str]:
    count = pair.reference.prompt_set.count
    if count < FEW_PROMPTS:
        yield f"only {count} prompts: intervals are too short below {FEW_PROMPTS}, and absent with one"
    if count > 1:
        yield (
            "intervals say how much other prompts of the same kind would change a number; they cover neither another "
            "seed of the training nor prompts of another kind"
        )
    for positions in POSITIONS:
        yield from _of_ranks(pair, positions)
    for positions in POSITIONS:
        ends = (pair.reference.layers[-1], pair.candidate.layers[-1])
        if any(
            position.underdetermined for end in ends for name, position in end.positions.items() if name == positions
        ):
            yield (
                f"contraction under '{positions}' is underdetermined (fewer rows than twice the dimensions): its "
                "differences are attenuated or inflated by x1.03-1.26; give more prompts"
            )


def _of_ranks(pair: Pair, positions: str) -> Iterator[str]:
    """Where too few rows, whatever they hold, leave every layer without a contraction: how many prompts would do."""
    found = [
        {str(name): position for name, position in layer.positions.items()}[positions]
        for trace in (pair.reference, pair.candidate)
        for layer in trace.layers[1:]
    ]
    if any(position.contraction_reason != INSUFFICIENT_RANK for position in found):
        return
    count, width, window = (
        pair.reference.prompt_set.count,
        pair.reference.model.hidden_size,
        pair.profile.window_for(positions),
    )
    rows, needed = max(position.rows for position in found), max(3, pair.profile.min_window_ranks)

    def held(rank: int) -> int:
        first, last = window_ranks(rank)[window]
        return last - first + 1

    ranks = min(rows - 1, width)
    if held(ranks) >= needed:
        return
    enough = next((rank for rank in range(ranks + 1, width + 1) if held(rank) >= needed), None)
    yield (
        f"no layer can have a contraction under '{positions}': {count} prompts give at most {ranks} ranks, of which "
        f"window '{window}' holds {held(ranks)} where a fit takes {needed}; "
        + (
            f"{width} dimensions are too few for it"
            if enough is None
            else f"from {-(-(enough + 1) * count // rows)} prompts on there can be one"
        )
    )


def _of_sides(sides: Mapping[str, Trace]) -> Iterator[str]:
    """What the traces themselves have remarks on, and how their vocabularies differ."""
    yield from _of_vocabularies(sides)
    yield from by_role({role: list(_of_one(trace)) for role, trace in sides.items()})


def _of_one(trace: Trace) -> Iterator[str]:
    """What a trace has a remark on, and a comparison does not say in words of its own."""
    read = trace.vocabulary
    known = None if read is None else read.remark(trace.model.vocab_size)
    for warning in trace.warnings:
        if warning != known and not warning.startswith("policy "):
            yield warning


def _of_vocabularies(sides: Mapping[str, Trace]) -> Iterator[str]:
    read = {role: trace.vocabulary for role, trace in sides.items() if trace.vocabulary is not None}
    rows = {role: sides[role].model.vocab_size for role in read}
    shared = any(sides[role].reading.vocabulary is not None for role in read)
    if not shared and len(set(rows.values())) < 2 and all(of.outside < NOTABLE for of in read.values()):
        return
    each = (f"{number(of.outside, 2)} of the probability of the {role}'s own output" for role, of in read.items())
    yield (
        f"ids 0..{min(of.ids for of in read.values()) - 1} are read, of "
        f"{', '.join(f'{rows[role]} ({role})' for role in read)}; those beyond hold {', '.join(each)}"
    )
    if len(set(rows.values())) > 1:
        yield "weight changes of embeddings and head, where their rows differ in number, are over the ids that are read"
