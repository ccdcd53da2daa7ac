"""A judgement as cases, for readers that count: JUnit, SARIF and GitLab. One for each rule of a verdict; of a training
run one for each signal and one for each checkpoint."""

import hashlib
import re
from collections.abc import Iterable

from spinal.documents.comparison import WORST_FIRST, RuleOutcome
from spinal.documents.series import Series
from spinal.report.content.case import (
    LONGEST,
    LONGEST_NAME,
    Case,
    Judgement,
    figure,
    model_name,
    short,
    with_whole,
)
from spinal.report.content.series import cases as of_series
from spinal.report.content.series.lead import run_name
from spinal.report.reported import Judged

__all__ = [
    "LONGEST",
    "LONGEST_NAME",
    "Case",
    "Judgement",
    "cases",
    "figure",
    "identity",
    "judgement",
    "model_name",
    "pair",
    "place",
    "plain_name",
    "short",
    "subject",
    "worst_first",
]

WHOLE = "verdict"
"""The case of a verdict whose rules do not say what it says, for example of a release that kept none."""


def judgement(document: Judged) -> Judgement:
    """What is said of the whole."""
    if isinstance(document, Series):
        return of_series.judgement(document)
    verdict = document.verdict
    return Judgement(
        verdict.outcome, verdict.outcome, verdict.policy, verdict.reasons, verdict.decided_by, "comparison",
        document.digest, verdict.weights, {},
    )  # fmt: skip


def cases(document: Judged) -> tuple[Case, ...]:
    """All of them, in the order in which they were asked. No reader of the cases alone takes the document for milder
    than it is: where none says what the whole does, that is a case itself, the first."""
    if isinstance(document, Series):
        return of_series.cases(document)
    verdict = document.verdict
    message = short("; ".join(verdict.reasons)) or verdict.outcome
    whole = Case(WHOLE, verdict.outcome, "what does the whole verdict say?", None, message, {})
    return with_whole(tuple(_case(rule) for rule in verdict.rules), whole)


def worst_first(found: Iterable[Case]) -> list[Case]:
    """What did not pass or was waived, the worst first; waived findings last."""
    told = [one for one in found if one.outcome != "pass" or one.waived is not None]
    return sorted(told, key=lambda one: (one.waived is not None, WORST_FIRST.index(one.worth)))


def subject(document: Judged) -> str:
    """What was judged: the candidate, or the run, as its checkpoints are named."""
    return run_name(document) if isinstance(document, Series) else document.candidate.source


def identity(document: Judged, case: Case) -> str:
    """The same for one case of one pair of models, or of one training run, in every version, whatever was measured; 64
    hex digits."""
    names = (model_name(_reference(document)), model_name(subject(document)), case.name)
    # By length first, so that no name can be made that borrows from its neighbour; lone surrogates have no UTF-8.
    joined = "".join(f"{len(name)}:{name}" for name in names).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()


def place(document: Judged) -> str:
    """A relative path that stands for what was judged where a format asks for a file: plain characters, no way up."""
    name = model_name(subject(document))
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-.") for part in re.split(r"[/:\\]", name[:1000])]
    return "/".join(["models", *(part[:80] for part in parts if part)][:8])


def plain_name(document: Judged) -> str:
    """What was judged is called in every version, in letters, digits, ``_``, ``-`` and ``/``."""
    name = re.sub(r"[^A-Za-z0-9_/-]+", "-", model_name(subject(document))[:LONGEST_NAME])
    return name.strip("/-") or "model"


def pair(document: Judged) -> str:
    """Both sides in one line."""
    return f"{short(_reference(document), LONGEST_NAME)} → {short(subject(document), LONGEST_NAME)}"


def _reference(document: Judged) -> str:
    return document.reference if isinstance(document, Series) else document.reference.source


def _case(rule: RuleOutcome) -> Case:
    numbers = {}
    if rule.path is not None:
        numbers["path"] = short(rule.path, LONGEST_NAME)
    if rule.of is not None:
        numbers["of"] = short(rule.of, LONGEST_NAME)
    if rule.value is not None:
        numbers["value"] = figure(rule.value)
    if rule.ci is not None:
        numbers["interval"] = f"[{figure(rule.ci[0])}, {figure(rule.ci[1])}]"
    if rule.limit is not None:
        numbers["limit"] = figure(rule.limit)
    if rule.bad is not None:
        numbers["bad"] = rule.bad
    if rule.unit and numbers:
        numbers["unit"] = short(rule.unit, LONGEST_NAME)
    waived = None
    if rule.waived is not None:
        waived = (short(rule.waived.reason), rule.waived.expires.isoformat(), rule.waived.would_be)
    message = short("; ".join(rule.reasons)) or _measured(numbers) or rule.outcome
    return Case(short(rule.rule, LONGEST_NAME), rule.outcome, short(rule.asks), rule.severity, message, numbers, waived)


def _measured(numbers: dict[str, str]) -> str:
    if "value" not in numbers:
        return ""
    unit = f" {numbers['unit']}" if "unit" in numbers else ""
    interval = f" {numbers['interval']}" if "interval" in numbers else ""
    limit = f", limit {numbers['limit']}" if "limit" in numbers else ""
    return f"{numbers['value']}{interval}{unit}{limit}"
