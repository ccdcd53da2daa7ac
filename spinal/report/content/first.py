"""What a reader gets in half a minute: the verdict with its reason, and where the change sits."""

from collections.abc import Sequence
from dataclasses import dataclass

from spinal.analysis.human_terms import unit_in_words
from spinal.documents.comparison import WORST_FIRST, Comparison, Outcome, RuleOutcome, Statement, Verdict
from spinal.report.content.cells import DASH, Table, interval, number
from spinal.report.content.lead import PLACES, reasons, reasons_of, sentence, sentences

READ_OUTS = ("margin", "kl", "refusal")
"""What the sentences on accounts are about."""


@dataclass(frozen=True)
class First:
    """The first screen, before anything is drawn."""

    outcome: Outcome
    policy: str
    reason: str
    """Why the verdict is what it is, as a sentence; empty where a stored verdict names none."""
    others: tuple[str, ...]
    """Every further reason, as sentences."""
    place: tuple[str, ...]
    """Where the change sits: what did not change or lies outside the blocks, what computes something else, and what
    carries the change, a sentence each."""


def first_screen(result: Comparison) -> First:
    why = reasons(result)
    verdict = result.verdict
    return First(verdict.outcome, verdict.policy, why[0] if why else "", why[1:], place(sentences(result)))


def place(said_of_it: Sequence[Statement]) -> tuple[str, ...]:
    """The sentence on each question that places something, else the first one on it."""
    chosen = []
    for about in (("weights", "settings"), ("block_swap",), READ_OUTS):
        said = [one for one in said_of_it if one.about in about]
        placed = [one for one in said if one.kind in PLACES]
        chosen += (placed or list(said))[:1]
    return tuple(one.text for one in chosen)


def deciding(result: Comparison) -> RuleOutcome | None:
    """The rule that made the outcome; None where nothing was found."""
    return decided_by(result.verdict)


def decided_by(verdict: Verdict) -> RuleOutcome | None:
    """The same of a verdict alone."""
    named = next((rule for rule in verdict.rules if rule.rule == verdict.decided_by), None)
    if named is not None or verdict.outcome == "pass":
        return named
    return next((rule for rule in verdict.rules if rule.outcome == verdict.outcome), None)


def value_of(rule: RuleOutcome) -> str:
    """``+3.51 [3.26, 3.77] nats/token``; a dash where the rule is on no single value."""
    if rule.value is None:
        return DASH
    return f"{number(rule.value)} {interval(rule.ci)}".strip() + (f" {unit_in_words(rule.unit)}" if rule.unit else "")


def limit_of(rule: RuleOutcome) -> str:
    """``from 1 on``, ``-0.5 or less``: the side on which the value is bad, with the limit."""
    if rule.limit is None:
        return DASH
    return f"{number(rule.limit)} or {'less' if rule.bad == 'below' else 'more'}"


def in_a_few_lines(verdict: Verdict, said: Sequence[Statement]) -> tuple[str, ...]:
    """What a log of a pipeline needs: verdict and reason, the rule that decided with value and limit, and where the
    change sits by the sentences ``said``."""
    why = reasons_of(verdict, said)
    lines = [f"{verdict.outcome.upper()}: {why[0] if why else ''}".rstrip(": ")]
    rule = decided_by(verdict)
    if rule is not None:
        value = "" if rule.value is None else f" {value_of(rule)}, bad at {limit_of(rule)}"
        asked = f": {question(rule)}{value}" if rule.asks or value else ""
        lines.append(f"Decided by rule {rule.rule} of {verdict.policy}{asked}")
    where = place(said)
    return (*lines, *((f"Where: {' '.join(where)}",) if where else ()))


def findings(result: Comparison) -> tuple[RuleOutcome, ...]:
    """Rules that found something, the one that decided first, then the worst first; waived ones last."""
    decided = deciding(result)
    found = [rule for rule in result.verdict.rules if rule.outcome != "pass" or rule.waived is not None]
    return tuple(sorted(found, key=lambda rule: (rule is not decided, WORST_FIRST.index(rule.outcome))))


def told(rule: RuleOutcome) -> str:
    """The outcome in words, with a waiver where one held."""
    if rule.waived is None:
        return rule.outcome
    return f"waived until {rule.waived.expires} ({rule.waived.would_be}): {rule.waived.reason}"


def question(rule: RuleOutcome) -> str:
    """What the rule asks, in words; its name where the verdict was made before questions were kept."""
    about = f" ({rule.of})" if rule.of else ""
    return (rule.asks or rule.rule.replace("_", " ")) + about


def findings_table(result: Comparison) -> Table:
    """What rules found, with value, interval and limit; without rows where every rule is content."""
    rows = [
        (question(rule), told(rule), value_of(rule), limit_of(rule), " ".join(sentence(why) for why in rule.reasons))
        for rule in findings(result)
    ]
    return Table("Rules that found something", ("rule", "outcome", "value", "bad at", "why"), tuple(rows))


def uncovered(result: Comparison) -> tuple[str, ...]:
    """Reasons that no finding gives: what the verdict does not cover."""
    given = {sentence(why) for rule in findings(result) for why in rule.reasons}
    placed = {sentence(one.text) for one in sentences(result)}
    return tuple(why for why in reasons(result)[1:] if why not in given and why not in placed)
