"""What a reader sees first: the reason of the verdict, and where the change sits."""

from collections.abc import Sequence

from spinal.analysis.human_terms import UNITS
from spinal.documents.comparison import Comparison, Statement, Verdict
from spinal.documents.series import Series
from spinal.documents.trace import Trace
from spinal.report.content.series.lead import title as title_of_series
from spinal.report.reported import Reported

PLACES = ("outlier", "band", "spread")
TOLD_ITS_PLACE_LAST = "spinal-default/1"
"""A policy whose last reason was where the change sits, in words that sentences have replaced."""


def title(document: Reported) -> str:
    if isinstance(document, Series):
        return title_of_series(document)
    if isinstance(document, Trace):
        return f"Depth trace of {document.model.source}"
    return f"{document.reference.source} → {document.candidate.source}"


def sentences(result: Comparison) -> tuple[Statement, ...]:
    """What the comparison says, or what is to be said of one that an earlier release made."""
    # Here, so that asking which formats there are needs no numpy.
    from spinal.analysis.statements import said

    return said(result)


def sentences_about(result: Comparison, *about: str) -> tuple[Statement, ...]:
    return tuple(one for one in sentences(result) if one.about in about)


def reasons(result: Comparison) -> tuple[str, ...]:
    """Why the verdict is what it is, each as a sentence; where the change sits is said beside it."""
    return reasons_of(result.verdict, sentences(result))


def reasons_of(verdict: Verdict, said: Sequence[Statement]) -> tuple[str, ...]:
    """The same of a verdict beside which ``said`` tell where the change sits."""
    given = verdict.reasons
    if verdict.policy == TOLD_ITS_PLACE_LAST:
        given = given[:-1]
    placed = {one.text for one in said}
    return tuple(sentence(reason) for reason in given if reason not in placed)


def headline(result: Comparison) -> str:
    """The verdict's first reason where it is no pass; then what did not change or lies outside the blocks, what
    computes something else, and what carries the change, one sentence each."""
    first = reasons(result)[:1] if result.verdict.outcome != "pass" else ()
    chosen = []
    for about in (("weights", "settings"), ("block_swap",), ("margin", "kl", "refusal")):
        said = sentences_about(result, *about)
        placed = [one for one in said if one.kind in PLACES]
        chosen += (placed or list(said))[:1]
    return " ".join([*first, *(one.text for one in chosen)])


def sentence(text: str) -> str:
    """With a capital and a full stop; formulas in reasons of earlier releases are put in words."""
    for formula, words in UNITS.items():
        text = text.replace(formula, words)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
