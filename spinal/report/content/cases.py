"""A verdict as cases, one for each rule, for readers that count: JUnit, SARIF and GitLab."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from spinal.documents.comparison import WORST_FIRST, Comparison, Outcome, RuleOutcome
from spinal.text import visible

WHOLE = "verdict"
"""The case of a verdict whose rules do not say what it says, for example of a release that kept none."""
LONGEST = 2000
"""Characters of a text in a report for pipelines: they cut longer ones themselves, or refuse the file."""
LONGEST_NAME = 200
VERSION = re.compile(
    r"^(v?\d[\d._-]*|(checkpoint|step|epoch|iter|global_step|run|rev|release)[-_]?\d+|[0-9a-f]{12,64}|latest)$",
    re.IGNORECASE,
)
"""A part of a reference that is a version and nothing else."""


@dataclass(frozen=True)
class Case:
    """What one rule found, or, named ``verdict``, what a verdict says and none of its rules does."""

    name: str
    outcome: Outcome
    asks: str
    """The question in words; empty where it was not kept."""
    severity: Literal["fail", "warn"] | None
    message: str
    """The reasons, or what was found beside the limit; one line."""
    numbers: dict[str, str]
    """Value, interval, limit and where they stand, as text; what was not kept is left out."""
    waived: tuple[str, str, Outcome] | None = None
    """Reason, last day, and what the rule found."""

    @property
    def worth(self) -> Outcome:
        """What the rule found, whether or not it counts."""
        return self.outcome if self.waived is None else self.waived[2]

    def fails(self, fail_on: Literal["fail", "warn"]) -> bool:
        """Whether it stops a pipeline: ``fail``, ``inconclusive``, and ``warn`` where that is to."""
        return self.outcome in ("fail", "inconclusive") or (self.outcome == "warn" and fail_on == "warn")


def cases(result: Comparison) -> tuple[Case, ...]:
    """One for each rule, in the order in which they were asked. No reader of the cases alone takes the verdict for a
    milder one than it is: where no rule found what it says, it is a case itself, the first."""
    verdict = result.verdict
    found = tuple(_case(rule) for rule in verdict.rules)
    worst = min((one.outcome for one in found), key=WORST_FIRST.index, default=None)
    if worst is None or WORST_FIRST.index(worst) > WORST_FIRST.index(verdict.outcome):
        message = short("; ".join(verdict.reasons)) or verdict.outcome
        whole = Case(WHOLE, verdict.outcome, "what does the whole verdict say?", None, message, {})
        return (whole, *found)
    return found


def worst_first(found: Iterable[Case]) -> list[Case]:
    """What did not pass or was waived, the worst first; waived findings last."""
    told = [one for one in found if one.outcome != "pass" or one.waived is not None]
    return sorted(told, key=lambda one: (one.waived is not None, WORST_FIRST.index(one.worth)))


def short(text: str, longest: int = LONGEST) -> str:
    """One line in characters that can be seen, not longer than that."""
    # Cut before and after: what is written out is longer, and ten megabytes of it would be made for nothing.
    line = visible(" ".join(text[: 4 * longest].split()))
    return line if len(line) <= longest and len(text) <= 4 * longest else f"{line[: longest - 1]}…"


def figure(value: float) -> str:
    """A number for readers that compare texts: six digits, the same on every machine."""
    return f"{value:.6g}"


def model_name(source: str) -> str:
    """What a checkpoint is called, whichever version it is: a reference without its revision, and without parts that
    are versions by themselves. A name that is nothing else stays.

    >>> model_name("hf:acme/chat@3f2a"), model_name("mlflow:chat/12"), model_name("local:chat/checkpoint-1200")
    ('hf:acme/chat', 'mlflow:chat', 'local:chat')
    >>> model_name("local:dpo-short")
    'local:dpo-short'
    """
    kind, colon, rest = source.rpartition(":") if source.count(":") == 1 else ("", "", source)
    parts = [part for part in rest.partition("@")[0].split("/") if part]
    kept = [part for part in parts if not VERSION.match(part)] or parts or [rest]
    return f"{kind}{colon}{'/'.join(kept)}"


def identity(result: Comparison, case: Case) -> str:
    """The same for one rule and one pair of models in every version, whatever was measured; 64 hex digits."""
    names = (model_name(result.reference.source), model_name(result.candidate.source), case.name)
    # By length first, so that no name can be made that borrows from its neighbour; lone surrogates have no UTF-8.
    joined = "".join(f"{len(name)}:{name}" for name in names).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()


def place(result: Comparison) -> str:
    """A relative path that stands for the candidate where a format asks for a file: plain characters, no way up."""
    name = model_name(result.candidate.source)
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-.") for part in re.split(r"[/:\\]", name[:1000])]
    return "/".join(["models", *(part[:80] for part in parts if part)][:8])


def plain_name(result: Comparison) -> str:
    """What the candidate is called in every version, in letters, digits, ``_``, ``-`` and ``/``."""
    name = re.sub(r"[^A-Za-z0-9_/-]+", "-", model_name(result.candidate.source)[:LONGEST_NAME])
    return name.strip("/-") or "model"


def pair(result: Comparison) -> str:
    """Both sides in one line."""
    return f"{short(result.reference.source, LONGEST_NAME)} → {short(result.candidate.source, LONGEST_NAME)}"


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
