"""Reports as one HTML file: no script, no request to anywhere, readable in light and dark."""

from html import escape as escape_markup

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report.content import Section, Table, headline, reasons, sections, title
from spinal.report.formats.format import Format
from spinal.report.formats.plots import plots
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
h2{font-size:1.15rem;margin:32px 0 8px}
h3{font-size:1rem;margin:20px 0 6px}
.said{padding-left:20px}
.said li{margin-bottom:6px}
.lead{font-size:1.1rem;margin:12px 0}
.badge{display:inline-block; padding:4px 14px; border-radius:6px; font-weight:700; border:2px solid;
text-transform:uppercase}
.pass{color:#00734d}.warn{color:#9a6700}.fail{color:#b3261e}.inconclusive{color:var(--soft)}
@media(prefers-color-scheme:dark){.pass{color:#4fd1a1}.warn{color:#f0c23b}.fail{color:#ff8a80}}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:left;padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}
td{overflow-wrap:break-word}
.short{white-space:nowrap}
.note,figcaption{color:var(--soft);font-size:.85rem}
.warnings{background:var(--card);border-left:4px solid var(--b);padding:8px 16px;border-radius:4px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(320px,100%),1fr));gap:16px}
figure{margin:0;background:var(--card);border-radius:8px;padding:10px}
svg{width:100%;height:auto}
.grid{stroke:var(--line)}
.zero{stroke:var(--soft)}
.tick{fill:var(--soft);font-size:10px}
.terminal{fill:var(--t)}
.line{fill:none;stroke-width:2}
.line.a{stroke:var(--a)}
.line.b{stroke:var(--b);stroke-dasharray:5 3}
.bar{stroke-width:1.5}
.bar.a{stroke:var(--a)}
.bar.b{stroke:var(--b)}
.dot.a{fill:var(--a)}
.dot.b{fill:var(--b)}
.band{opacity:.22}
.band.a{fill:var(--a)}
.band.b{fill:var(--b)}
.key{margin-left:10px;font-weight:600}
.key.a{color:var(--a)}
.key.b{color:var(--b)}
"""

SHORT = 30
"""Characters up to which a cell is not broken into lines."""


def escape(text: str) -> str:
    """Text that a browser shows as it is, in the order in which it is written: names come from outside."""
    return escape_markup(visible(text))


def render_html(document: Trace | Comparison) -> str:
    """One file: sentences, plots as inline SVG, tables."""
    body = [f"<h1>{escape(title(document))}</h1>"]
    if isinstance(document, Comparison):
        outcome = document.verdict.outcome
        body.append(
            f'<p><span class="badge {outcome}">{outcome}</span> '
            f'<span class="note">policy {escape(document.verdict.policy)}</span></p>'
        )
        body.append(f'<p class="lead">{escape(headline(document))}</p>')
        # The lead begins with the first reason, but for a pass.
        others = reasons(document)[0 if outcome == "pass" else 1 :]
        if others:
            body.append("<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in others) + "</ul>")
    if document.warnings:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in document.warnings)
        body.append(f'<section class="warnings"><h2>Read this first</h2><ul>{items}</ul></section>')
    body += [_section(document, section) for section in sections(document)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title(document))}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _section(document: Trace | Comparison, section: Section) -> str:
    said = "".join(
        f"<li>{escape(one.text)}" + (f'<br><span class="note">{escape(one.null)}</span>' if one.null else "") + "</li>"
        for one in section.said
    )
    drawn = plots(document, section.about)
    parts = [f'<ul class="said">{said}</ul>' if said else ""]
    parts.append(f'<div class="plots" role="group" aria-label="Plots">{drawn}</div>' if drawn else "")
    alone = len(section.tables) == 1 and section.tables[0].title == section.title
    parts += [_table(table, heading=not alone) for table in section.tables]
    return f"<section><h2>{escape(section.title)}</h2>{''.join(parts)}</section>"


def _table(table: Table, *, heading: bool) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    name = f"<h3>{escape(table.title)}</h3>" if heading else ""
    return f'{name}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}'


def _cell(text: str) -> str:
    # A number and its interval stay on one line; a table wider than the page scrolls by itself.
    short = ' class="short"' if len(text) <= SHORT else ""
    return f"<td{short}>{escape(text)}</td>"


HTML = Format(
    "html",
    (".html", ".htm"),
    "text/html; charset=utf-8",
    render_html,
    {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"},
)
