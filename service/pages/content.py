"""What pages say of audits, as tables and rows of text: pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.audits.schemas import AuditOut
from service.series.schemas import SeriesOut
from spinal.documents.comparison import Comparison, RuleOutcome, Verdict
from spinal.documents.series import Series
from spinal.report.content.cells import DASH, Table
from spinal.report.content.first import limit_of, question, told, value_of
from spinal.report.content.gauges import gauges
from spinal.report.content.strength import scores_table

Facts = list[tuple[str, str]]
SHORT = 12
"""Digits of a digest that a person compares by eye."""


@dataclass(frozen=True, eq=False)
class Side:
    """An audit, and what it measured where it compared something."""

    audit: AuditOut
    comparison: Comparison | None


@dataclass(frozen=True, eq=False)
class Compared:
    """Two audits side by side."""

    left: AuditOut
    right: AuditOut
    obstacles: tuple[str, ...]
    """Why their numbers do not say the same thing; empty where they do."""
    judged: str
    """What is to be known of their verdicts."""
    tables: tuple[Table, ...]


def rules_of(verdict: Verdict | None) -> Table | None:
    """Every rule that was asked."""
    if verdict is None:
        return None
    rows = tuple((question(rule), told(rule), value_of(rule), limit_of(rule)) for rule in verdict.rules)
    return Table(f"Rules of {verdict.policy}", ("question", "outcome", "value", "bad at"), rows)


def facts_of(audit: AuditOut) -> Facts:
    """What an audit was asked, and what stood behind the names."""
    found = [("Id", str(audit.id)), ("Prompts", _prompts(audit)), ("Measurement", audit.fingerprint)]
    found += [(f"{role.capitalize()} meant", meant) for role, meant in audit.pinned.items()]
    found += [(f"Weights of the {role}", digest) for role, digest in audit.weights.items()]
    return found


def facts_of_series(series: SeriesOut) -> Facts:
    """What all members share."""
    found = [("Id", str(series.id)), ("Prompts", series.prompt_set)]
    return found + ([] if series.control is None else [("Control", series.control)])


def members_of(document: Series, address: str) -> Table:
    """The checkpoints of a run, each with its audit's page below ``address``."""
    rows, links = [], []
    for one in document.members:
        rows.append(
            (str(one.step), one.state, one.verdict or DASH, one.model, one.reason or one.verdict_reason or DASH)
        )
        links.append(None if one.audit is None else f"{address}{one.audit}")
    return Table("Checkpoints", ("checkpoint", "state", "verdict", "model", "why"), tuple(rows), links=tuple(links))


def compared(left: Side, right: Side) -> Compared:
    """Two audits side by side: what differs in what they asked, and every value of both."""
    tables = [_asked(left, right)]
    one, other = left.comparison, right.comparison
    if one is not None and other is not None:
        tables += [_rules(one.verdict, other.verdict), _signals(one, other), _scores(one, other)]
    return Compared(left.audit, right.audit, tuple(_obstacles(left, right)), _judged(one, other), tuple(tables))


def _obstacles(left: Side, right: Side) -> Iterable[str]:
    for side, which in ((left, "left"), (right, "right")):
        if side.comparison is None:
            audit = side.audit
            why = "has no reference" if audit.reference is None else f"is {audit.state}"
            yield f"The {which} one holds no comparison: it {why}."
    one, other = left.comparison, right.comparison
    if one is None or other is None:
        return
    if one.reference.weights_digest != other.reference.weights_digest:
        yield "Their references have different weights: each change is told from another starting point."
    if left.audit.prompt_set.get("digest") != right.audit.prompt_set.get("digest"):
        yield "They were measured on different prompts."
    if one.fingerprint != other.fingerprint:
        yield "They were measured or compared with different settings (fingerprint)."
    if one.scorer_version != other.scorer_version:
        yield f"They were scored by different versions ({one.scorer_version}, {other.scorer_version})."


def _judged(one: Comparison | None, other: Comparison | None) -> str:
    if one is None or other is None:
        return ""
    left, right = one.verdict, other.verdict
    same = left.policy_digest == right.policy_digest if left.policy_digest else left.policy == right.policy
    if not same:
        named = f"{left.policy}, {right.policy}"
        return f"The verdicts were made by different policies ({named}): they may differ on equal values."
    if one.candidate.weights_digest == other.candidate.weights_digest:
        return "Both candidates have the same weights."
    return ""


def _asked(left: Side, right: Side) -> Table:
    def of(side: Side) -> dict[str, str]:
        audit, comparison = side.audit, side.comparison
        found = {
            "verdict": audit.verdict or audit.state.lower(),
            "decided by": audit.decided_by or DASH,
            "candidate": audit.candidate,
            "reference": audit.reference or DASH,
            "control": audit.control or DASH,
            "policy": DASH if audit.policy is None else f"{audit.policy.name} ({audit.policy.digest[:SHORT]})",
            "prompts": _prompts(audit),
            "measurement": audit.fingerprint[:SHORT],
        }
        if comparison is not None:
            found |= {
                "comparison": comparison.fingerprint[:SHORT],
                "weights of the candidate": comparison.candidate.weights_digest[:SHORT],
                "weights of the reference": comparison.reference.weights_digest[:SHORT],
            }
        return found

    return _joined("What was asked", ("", "left", "right", "differs"), of(left), of(right), says=True)


def _rules(left: Verdict, right: Verdict) -> Table:
    def of(verdict: Verdict) -> dict[str, str]:
        return {question(rule): _outcome(rule) for rule in verdict.rules}

    return _joined("Rules", ("question", "left", "right", ""), of(left), of(right), says=False)


def _outcome(rule: RuleOutcome) -> str:
    value = value_of(rule)
    return told(rule) if value in ("", DASH) else f"{told(rule)}: {value}"


def _signals(left: Comparison, right: Comparison) -> Table:
    def of(comparison: Comparison) -> dict[str, str]:
        # Without the category, which is the worst of each, and may be another.
        return {one.name.partition(" (")[0]: _with_category(one.name, one.value) for one in gauges(comparison)}

    return _joined("Damage, with 95% intervals", ("signal", "left", "right", ""), of(left), of(right), says=False)


def _with_category(name: str, value: str) -> str:
    _, _, category = name.partition(" (")
    return f"{value} ({category}" if category else value


def _scores(left: Comparison, right: Comparison) -> Table:
    def of(comparison: Comparison) -> dict[str, str]:
        return {row[0]: f"{row[1]} {row[2]}".replace(f" {DASH}", "") for row in scores_table(comparison).rows}

    return _joined("Strength of the signature", ("score", "left", "right", ""), of(left), of(right), says=False)


def _joined(title: str, header: tuple[str, ...], left: dict[str, str], right: dict[str, str], *, says: bool) -> Table:
    """Rows by name, those of the left first; ``says``: whether rows that differ are marked. Values are not: two of one
    model differ by what is in their intervals."""
    names = list(dict.fromkeys([*left, *right]))
    rows = [
        (name, one, other, "differs" if one != other else "")
        for name in names
        for one, other in [(left.get(name, DASH), right.get(name, DASH))]
    ]
    width = 4 if says else 3
    return Table(title, header[:3], tuple(row[:width] for row in rows))


def _prompts(audit: AuditOut) -> str:
    found = audit.prompt_set
    digest = str(found.get("digest", ""))[:SHORT]
    named = found.get("name")
    return f"{named} ({digest})" if named else digest
