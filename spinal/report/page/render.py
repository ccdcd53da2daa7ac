"""A document through its template."""

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.numbers import number
from spinal.report.content import reasons, sections, title
from spinal.report.content.first import deciding, first_screen, limit_of, uncovered
from spinal.report.content.works import MOST_PROMPTS, rules_summary
from spinal.report.page.damage import drawn, ends, farthest, how_far, unmeasured, without_limit
from spinal.report.page.depth import figure_of_trace, figures_of
from spinal.report.page.environment import content_policy, environment, text_of

SIGNS = {"pass": "✓", "warn": "!", "fail": "✕", "inconclusive": "?"}
"""Beside the word, for who sees no colours."""


def render_page(document: Trace | Comparison) -> str:
    """One file: sentences, plots as inline SVG, tables."""
    if isinstance(document, Trace):
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
