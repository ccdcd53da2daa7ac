"""How strong the signature is, against its controls, and every layer."""

from spinal.documents.comparison import Comparison, Null
from spinal.numbers import percentile
from spinal.report.content.cells import DASH, Table, estimate, interval, number

SCORE_NAMES = {
    "delta_align": "Delta_align",
    "contraction_rise": "A: relative rise of alpha over T",
    "transport_fall": "B: relative fall of L over T",
    "coherence": "S: coherence of the candidate",
    "coherence_reference": "S of the reference",
    "footprint": "G: footprint in T",
    "spinal_score": "SPINAL-style score",
}


def scores_table(result: Comparison) -> Table:
    scores = result.scores
    rows = [
        (
            label,
            number(getattr(scores, name), 4),
            interval(scores.ci.get(name), 3) or DASH,
            number(scores.mde.get(name), 2),
            scores.reasons.get(name, ""),
        )
        for name, label in SCORE_NAMES.items()
    ]
    low, high = scores.terminal_window
    return Table(
        "Strength of the signature",
        ("score", "value", "95% interval", "detectable from", "note"),
        tuple(rows),
        f"Over T = blocks {low}-{high}, positions '{scores.policy}'. Signed: A < 0 is expansion, a valid result. A "
        "large clean signature is a reason to look at the damage panel, never a pass by itself.",
    )


def layers_table(result: Comparison) -> Table:
    rows = tuple(
        (
            str(layer.layer),
            estimate(layer.block_swap),
            number(layer.weight_change),
            estimate(layer.d_contraction.all),
            estimate(layer.d_transport.all),
            estimate(layer.d_transport_fixed_lens.all),
            estimate(layer.function_gap.all),
        )
        for layer in result.layers
    )
    return Table(
        "Layer by layer",
        ("layer", "block swap", "weights", "d alpha", "d L", "d L, fixed lens", "function gap"),
        rows,
        "Candidate minus reference, positions 'all', 95% intervals over prompts. * stands after correction over "
        "layers.",
        narrow=(0, 1, 3, 4),
        weight=tuple(layer.block_swap.value or 0.0 for layer in result.layers),
    )


def nulls_table(result: Comparison) -> Table:
    rows = tuple(
        (name, null.statistic, number(null.observed), _under(null), percentile(null.percentile), null.note)
        for name, null in result.nulls.items()
    )
    return Table(
        "Controls",
        ("control", "statistic", "observed", "under control", "percentile", "what it is"),
        rows,
        _contrast_note(result),
        narrow=(0, 1, 2, 3, 4),
    )


def _under(null: Null) -> str:
    """The values under a control: one as it is, several as their range."""
    if len(null.values) < 2:
        return number(null.values[0]) if null.values else DASH
    return f"{number(min(null.values))} to {number(max(null.values))}"


def _contrast_note(result: Comparison) -> str:
    control = result.nulls.get("control")
    if control is None:
        return ""
    parts = [f"{name} {estimate(value)}" for name, value in control.contrast.items()]
    return "Candidate minus control, 95% intervals paired over prompts: " + ", ".join(parts) + "."
