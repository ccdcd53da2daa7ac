"""A document through its template."""

from collections.abc import Mapping

from spinal.documents.comparison import Comparison
from spinal.documents.series import Series
from spinal.documents.trace import Trace
from spinal.numbers import number
from spinal.report.content import reasons, sections, title
from spinal.report.content.first import deciding, first_screen, limit_of, uncovered
from spinal.report.content.lead import sentence
from spinal.report.content.series.lead import OUTCOMES, began, extent, not_looked_at, run_name, word
from spinal.report.content.works import MOST_PROMPTS, rules_summary
from spinal.report.page.damage import drawn, ends, farthest, how_far, unmeasured, without_limit
from spinal.report.page.depth import figure_of_trace, figures_of
from spinal.report.page.environment import content_policy, environment, text_of
from spinal.report.page.steps import run_figures
from spinal.report.reported import Reported

SIGNS = {"pass": "✓", "warn": "!", "fail": "✕", "inconclusive": "?"}
"""Beside the word, for who sees no colours."""
MOST_SAID = 2
"""Sentences of a training run, after the first, that stand before its plots; the rest is folded."""


def render_page(document: Reported, links: Mapping[str, str]) -> str:
    """One file: sentences, plots as inline SVG, tables. ``links``: label -> address of what the document lists."""
    found: dict[str, object]
    if isinstance(document, Series):
        name, found = "series.html.j2", _of_series(document, links)
    elif isinstance(document, Trace):
        name, found = "trace.html.j2", _of_trace(document)
    else:
        name, found = "comparison.html.j2", _of_comparison(document)
    page = (
        environment()
        .get_template(name)
        .render(
            document=document,
            title=title(document),
            content_policy=content_policy(),
            style=text_of("report.css"),
            script=text_of("report.js"),
            **found,
        )
    )
    return page.rstrip() + "\n"


def _of_series(series: Series, links: Mapping[str, str]) -> dict[str, object]:
    outcome = OUTCOMES[series.status]
    why = [sentence(reason) for reason in series.reasons]
    return {
        "outcome": outcome,
        "word": word(series.status),
        "sign": SIGNS[outcome],
        "first": why[0] if why else "",
        "others": why[1:],
        "most_said": MOST_SAID,
        "began": began(series),
        "run": run_name(series),
        "extent": extent(series),
        "figures": run_figures(series),
        "left": [sentence(one) for one in not_looked_at(series)],
        "sections": {section.about: section for section in sections(series, links)},
    }


def _of_trace(trace: Trace) -> dict[str, object]:
    return {"figures": [figure_of_trace(trace)], "sections": sections(trace), "nll": number(trace.nll)}


def _of_comparison(result: Comparison) -> dict[str, object]:
    first, decided = first_screen(result), deciding(result)
    far = farthest(result) if first.outcome == "pass" else None
    findings = [why for why in reasons(result)[0 if first.outcome == "pass" else 1 :] if why not in uncovered(result)]
    return {
        "first": first,
        "sign": SIGNS[first.outcome],
        "decided": decided,
        "decided_limit": None if decided is None or decided.limit is None else limit_of(decided),
        "far": far,
        "how_far": None if far is None else how_far(far),
        "findings": findings if first.outcome != "pass" else findings[1:],
        "uncovered": uncovered(result),
        "figures": figures_of(result),
        "bars": drawn(result),
        "ends": ends(),
        "unmeasured": unmeasured(result),
        "without_limit": without_limit(result),
        "sections": sections(result),
        "rules_summary": rules_summary(result),
        "most_prompts": MOST_PROMPTS,
    }
