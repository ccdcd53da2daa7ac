"""Reports as one HTML file: no script, no request to anywhere, readable in light and dark."""

from collections.abc import Callable
from html import escape as escape_markup

from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, LayerComparison
from spinal.documents.trace import Trace
from spinal.report.content import Table, headline, tables, title
from spinal.report.formats.format import Format
from spinal.report.svg import Series, plot
from spinal.text import visible

STYLE = """
:root{color-scheme:light dark; --ink:#1c2430; --soft:#5b6675; --paper:#fff; --card:#f5f7fa; --line:#d6dce4;
--a:#0072b2; --b:#d55e00; --t:#e9edf2}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0; --soft:#9aa7b6; --paper:#12161c; --card:#1a2028;
--line:#303a46; --a:#56b4e9; --b:#e69f00; --t:#212933}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:auto;padding:24px 16px}
h1{font-size:1.5rem;margin:0 0 8px;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:28px 0 8px}
.lead{font-size:1.1rem;margin:12px 0}
.badge{display:inline-block; padding:4px 14px; border-radius:6px; font-weight:700; border:2px solid;
text-transform:uppercase}
.pass{color:#00734d}.warn{color:#9a6700}.fail{color:#b3261e}.inconclusive{color:var(--soft)}
@media(prefers-color-scheme:dark){.pass{color:#4fd1a1}.warn{color:#f0c23b}.fail{color:#ff8a80}}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:left;padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}
td{overflow-wrap:anywhere}
.note,figcaption{color:var(--soft);font-size:.85rem}
.warnings{background:var(--card);border-left:4px solid var(--b);padding:8px 16px;border-radius:4px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:16px}
figure{margin:0;background:var(--card);border-radius:8px;padding:10px}
svg{width:100%;height:auto}
.grid{stroke:var(--line)}
.zero{stroke:var(--soft)}
.tick{fill:var(--soft);font-size:10px}
.terminal{fill:var(--t)}
.line{fill:none;stroke-width:2}
.line.a{stroke:var(--a)}
.line.b{stroke:var(--b);stroke-dasharray:5 3}
.dot.a{fill:var(--a)}
.dot.b{fill:var(--b)}
.band{opacity:.22}
.band.a{fill:var(--a)}
.band.b{fill:var(--b)}
.key{margin-left:10px;font-weight:600}
.key.a{color:var(--a)}
.key.b{color:var(--b)}
"""


def escape(text: str) -> str:
    """Text that a browser shows as it is, in the order in which it is written: names come from outside."""
    return escape_markup(visible(text))


def render_html(document: Trace | Comparison) -> str:
    """One file: tables, and plots as inline SVG."""
    body = [f"<h1>{escape(title(document))}</h1>"]
    if isinstance(document, Comparison):
        outcome = document.verdict.outcome
        body.append(
            f'<p><span class="badge {outcome}">{outcome}</span> '
            f'<span class="note">policy {escape(document.verdict.policy)}</span></p>'
        )
        body.append(f'<p class="lead">{escape(headline(document))}</p>')
        body.append("<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in document.verdict.reasons) + "</ul>")
    if document.warnings:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in document.warnings)
        body.append(f'<section class="warnings"><h2>Read this first</h2><ul>{items}</ul></section>')
    body.append(f'<section class="plots" aria-label="Plots">{_plots(document)}</section>')
    body += [_table(table) for table in tables(document) if table.rows]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title(document))}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<section><h2>{escape(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}</section>"
    )


def _plots(document: Trace | Comparison) -> str:
    return _trace_plots(document) if isinstance(document, Trace) else _comparison_plots(document)


def _comparison_plots(result: Comparison) -> str:
    layers, terminal = result.layers, result.scores.terminal_window
    weights = [(float(layer.layer), layer.weight_change) for layer in layers if layer.weight_change is not None]
    figures = [
        plot(
            "Block swap", "Change of what each block computes, relative to its own update; band: 95% interval.",
            [_series("candidate", "a", layers, lambda layer: layer.block_swap)], terminal=terminal, unit="relative",
        ),
        plot(
            "Weight change", "Relative Frobenius change of each block's parameters.",
            [Series("candidate", "a", weights)], terminal=terminal, unit="relative",
        ),
        plot(
            "d alpha", "Change of contraction; positive is stronger contraction. Both positions (last and all).",
            [
                _series("all", "a", layers, lambda layer: layer.d_contraction.all),
                _series("last", "b", layers, lambda layer: layer.d_contraction.last),
            ], terminal=terminal, unit="alpha",
        ),
        plot(
            "d L", "Change of transport into the layer; negative is a shorter step. Both positions (last and all).",
            [
                _series("all", "a", layers[2:], lambda layer: layer.d_transport.all),
                _series("last", "b", layers[2:], lambda layer: layer.d_transport.last),
            ], terminal=terminal, unit="radians",
        ),
        plot(
            "Function gap", "Distance of both checkpoints' next-token distributions at the same layer.",
            [
                _series("all", "a", layers, lambda layer: layer.function_gap.all),
                _series("last", "b", layers, lambda layer: layer.function_gap.last),
            ], terminal=terminal, unit="radians",
        ),
    ]  # fmt: skip
    return "".join(figures)


def _series(
    label: str, style: str, layers: tuple[LayerComparison, ...], pick: Callable[[LayerComparison], Estimate]
) -> Series:
    known = [(float(layer.layer), pick(layer)) for layer in layers]
    points = [(x, found.value) for x, found in known if found.value is not None]
    band = [(x, *found.ci) for x, found in known if found.ci is not None]
    return Series(label, style, points, band)


def _trace_plots(trace: Trace) -> str:
    # Here, so that asking which formats there are needs no numpy.
    from spinal.analysis.localization import terminal_window

    terminal = terminal_window(trace.model.n_layers, float(str(trace.profile["terminal_fraction"])))
    figures = []
    for member, name, unit in (
        ("contraction", "Contraction alpha", "alpha"),
        ("transport", "Transport L", "radians"),
        ("entropy", "Entropy", "nats"),
    ):
        series = []
        for policy, style in (("all", "a"), ("last", "b")):
            points, band = [], []
            for layer in trace.layers:
                position = layer.positions[policy]  # type: ignore[index]  # literal policies
                value, se = getattr(position, member), getattr(position, f"{member}_se")
                if value is not None:
                    points.append((float(layer.layer), value))
                    if se is not None:
                        band.append((float(layer.layer), value - 1.96 * se, value + 1.96 * se))
            series.append(Series(policy, style, points, band))
        figures.append(plot(name, "By layer; band: 95% interval.", series, terminal=terminal, unit=unit))
    return "".join(figures)


HTML = Format(
    "html",
    (".html", ".htm"),
    "text/html; charset=utf-8",
    render_html,
    {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"},
)
