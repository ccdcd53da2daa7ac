"""A trace's table, and where a document came from."""

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report.content.cells import Table, number


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


def about_trace(trace: Trace) -> str:
    """What was measured, and how far the numbers of the last third reach, in a sentence or two."""
    # Here, so that asking which formats there are needs no numpy.
    from spinal.analysis.localization import terminal_window

    first, last = terminal_window(trace.model.n_layers, trace.measurement_profile().terminal_fraction)
    late = [layer.positions["all"] for layer in trace.layers[first : last + 1]]
    said = [
        f"{name} {_range(values)}{unit}"
        for name, unit, values in (
            ("alpha", "", [one.contraction for one in late]),
            ("L", " radians", [one.transport for one in late]),
        )
    ]
    nll = "" if trace.nll is None else f", which it predicts at {number(trace.nll)} nats a token"
    return (
        f"{trace.model.n_layers} blocks, read on {trace.prompt_set.count} prompts{nll}. "
        f"In the last third, blocks {first}-{last}, at all positions: {' and '.join(said)}."
    )


def _range(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{number(min(known))} to {number(max(known))}" if known else "not measured"


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
