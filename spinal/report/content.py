"""What a report says, independent of how it is drawn: sentences and tables of plain text."""

from dataclasses import dataclass

from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, Null
from spinal.documents.localization import NO_CHANGE
from spinal.documents.trace import Trace

SCORE_NAMES = {
    "delta_align": "Delta_align",
    "contraction_rise": "A: relative rise of alpha over T",
    "transport_fall": "B: relative fall of L over T",
    "coherence": "S: coherence of the candidate",
    "coherence_reference": "S of the reference",
    "footprint": "G: footprint in T",
    "spinal_score": "SPINAL-style score",
}
DASH = "–"


@dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def number(value: float | None, digits: int = 3) -> str:
    """A value with sensible digits; a dash for a null."""
    if value is None:
        return DASH
    if value == 0.0:
        return "0"
    return f"{value:.{digits}g}" if abs(value) < 1e4 else f"{value:.3e}"


def interval(ci: tuple[float, float] | None, digits: int = 3) -> str:
    return "" if ci is None else f"[{number(ci[0], digits)}, {number(ci[1], digits)}]"


def estimate(found: Estimate, digits: int = 3) -> str:
    """``value [low, high]``, starred where it stands after correction over layers; the reason for a null."""
    if found.value is None:
        return DASH
    star = " *" if found.significant else ""
    return f"{number(found.value, digits)} {interval(found.ci, digits)}{star}".replace("  ", " ").strip()


def headline(result: Comparison) -> str:
    """Where the change sits, in one sentence with an interval."""
    place = result.localization["block_swap"]
    measured = place.window80 is not None or place.reason == NO_CHANGE
    if result.identical and _all_zero(result):
        which = "every difference" if measured else "every difference that was measured"
        return f"Reference and candidate hold the same weights: {which} is exactly 0."
    if not measured:
        why = (place.reason or "not_measured").replace("_", " ")
        return f"Where blocks compute something else than in the reference was not measured: {why}."
    if place.window80 is None or place.center is None:
        return "No block computes anything else than in the reference."
    depth = len(result.layers) - 1
    low, high = place.window80
    first, last = result.scores.terminal_window
    spread = f" (95% {interval(place.ci.get('center'), 2)})" if "center" in place.ci else ""
    return (
        f"80% of the change in what blocks compute sits in blocks {low}-{high} of {depth}, centred at depth "
        f"{place.center:.2f}{spread}, peak at block {place.peak}; the terminal window, blocks {first}-{last}, holds "
        f"{number(place.terminal_share, 2)} of it (flat would be {number(place.terminal_share_null, 2)})."
    )


def _all_zero(result: Comparison) -> bool:
    """Whether every difference that has a value is exactly 0."""
    differences = (
        value
        for layer in result.layers
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


def title(document: Comparison | Trace) -> str:
    if isinstance(document, Trace):
        return f"Depth trace of {document.model.source}"
    return f"{document.reference.source} → {document.candidate.source}"


def localization_table(result: Comparison) -> Table:
    # Here, so that asking which formats there are needs no numpy.
    from spinal.analysis.locators import LOCATORS as labels

    rows = []
    for name, place in result.localization.items():
        label = labels[name].label if name in labels else name.replace("_", " ")
        if place.center is None:
            rows.append((label, DASH, DASH, DASH, DASH, (place.reason or "").replace("_", " ")))
            continue
        rows.append(
            (
                label,
                f"{number(place.center, 3)} {interval(place.ci.get('center'), 3)}".strip(),
                _span(place.window50),
                _span(place.window80),
                str(place.peak),
                f"{number(place.terminal_share, 3)} {interval(place.ci.get('terminal_share'), 3)}".strip(),
            )
        )
    flat = number(next(iter(result.localization.values())).terminal_share_null, 3)
    return Table(
        "Where the change sits",
        ("profile", "centre (depth)", "50% in blocks", "80% in blocks", "peak", f"share in T (flat: {flat})"),
        tuple(rows),
        "Disagreement between profiles is shown, not averaged away. Block swap is the default localiser.",
    )


def _span(window: tuple[int, int] | None) -> str:
    return DASH if window is None else f"{window[0]}-{window[1]}"


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


def damage_table(result: Comparison) -> Table:
    rows = [
        (
            name.replace("_", " "),
            number(signal.value),
            signal.unit,
            number(signal.watch),
            number(signal.damaged),
            signal.level or (signal.reason or "shown only").replace("_", " "),
        )
        for name, signal in result.damage.signals.items()
    ]
    unknown = any(signal.watch is not None and signal.value is None for signal in result.damage.signals.values())
    return Table(
        f"Damage panel: {result.damage.level}{' among what was measured' if unknown else ''}",
        ("signal", "value", "unit", "watch from", "damaged from", "level"),
        tuple(rows),
        result.damage.calibration,
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
    )


def nulls_table(result: Comparison) -> Table:
    rows = tuple(
        (name, null.statistic, number(null.observed), _under(null), number(null.percentile, 2), null.note)
        for name, null in result.nulls.items()
    )
    return Table(
        "Controls",
        ("control", "statistic", "observed", "under control", "percentile", "what it is"),
        rows,
        _contrast_note(result),
    )


def _under(null: Null) -> str:
    """The values under a control: one as it is, several as their range."""
    if len(null.values) < 2:
        return number(null.values[0]) if null.values else "-"
    return f"{number(min(null.values))} to {number(max(null.values))}"


def _contrast_note(result: Comparison) -> str:
    control = result.nulls.get("control")
    if control is None:
        return ""
    parts = [f"{name} {estimate(value)}" for name, value in control.contrast.items()]
    return "Candidate minus control, 95% intervals paired over prompts: " + ", ".join(parts) + "."


def trace_table(trace: Trace) -> Table:
    rows = []
    for layer in trace.layers:
        cells = [str(layer.layer)]
        for policy in ("last", "all"):
            position = layer.positions[policy]
            cells += [
                _with_se(position.contraction, position.contraction_se),
                _with_se(position.transport, position.transport_se),
            ]
        cells += [number(layer.positions["all"].entropy), number(layer.positions["all"].effective_rank)]
        rows.append(tuple(cells))
    return Table(
        "Depth trace",
        ("layer", "alpha (last)", "L (last)", "alpha (all)", "L (all)", "entropy (all)", "effective rank (all)"),
        tuple(rows),
        "alpha: decay exponent of the singular values; L: radians moved by the next-token distribution into this "
        "layer; ± one standard error.",
    )


def _with_se(value: float | None, se: float | None) -> str:
    return number(value) if se is None or value is None else f"{number(value)} ± {number(se, 2)}"


def provenance_table(document: Comparison | Trace) -> Table:
    source = document.provenance
    rows = [
        ("made", f"{source.created_at}, {source.duration_s:.1f} s"),
        ("on", f"{source.device}, {source.dtype}, {source.threads} thread(s), {source.platform}"),
        (
            "with",
            ", ".join(f"{name} {version}" for name, version in source.versions.items()) + f", python {source.python}",
        ),
        ("seed", str(source.seed)),
        ("digest", document.digest),
        ("fingerprint", document.fingerprint),
    ]
    if isinstance(document, Comparison):
        sides = {"reference": document.reference, "candidate": document.candidate, "control": document.control}
        for role, side in sides.items():
            if side is not None:
                rows += [(f"{role} weights", side.weights_digest), (f"{role} trace", side.digest)]
    else:
        rows += [
            ("weights", document.model.weights_digest),
            ("prompts", f"{document.prompt_set.count}, {document.prompt_set.digest}"),
            *_reading_rows(document),
        ]
    if source.command:
        rows.append(("command", " ".join(source.command)))
    return Table("Provenance", ("what", "value"), tuple(rows))


def _reading_rows(trace: Trace) -> list[tuple[str, str]]:
    rows = []
    if trace.vocabulary is not None:
        beyond = f"; beyond lies {number(trace.vocabulary.outside, 2)} of the probability"
        rows.append(("ids read", f"{trace.vocabulary.ids} of {trace.model.vocab_size}{beyond}"))
    if trace.reading.tokenizer is not None:
        rows.append(("tokenizer, not its own", trace.reading.tokenizer))
    return rows


def tables(document: Comparison | Trace) -> list[Table]:
    """All tables of a report, most important first."""
    if isinstance(document, Trace):
        return [trace_table(document), provenance_table(document)]
    return [
        localization_table(document),
        damage_table(document),
        scores_table(document),
        nulls_table(document),
        layers_table(document),
        provenance_table(document),
    ]
