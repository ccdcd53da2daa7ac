"""``spinal-default/2`` as code, as it was before it was a document: what the document has to say the same as."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from spinal.analysis.damage.limits import AGREEING, LIMITS, MIN_PROMPTS, beyond
from spinal.documents.account import configuration_carries
from spinal.documents.comparison import (
    ComparisonContent,
    Damage,
    DamageSignal,
    Looked,
    Outcome,
    SettingDifference,
    Statement,
)
from spinal.policy.words import LOOKS, sentence

WORST_FIRST: tuple[Outcome, ...] = ("fail", "inconclusive", "warn", "pass")
MARGIN = "margin_change"
NAMED = 8
"""Categories or settings of which a reason names so many at most."""
GENERATION = "generation"
ENDING = ("eos_token_id", "stop_strings", "max_new_tokens", "max_length", "min_new_tokens", "min_length")
"""Settings of generation that say where an answer ends."""
SAME_OUTPUT = 5e-3
"""Radians at node D within which two models say the same: what rounding in 16 bits makes of one model."""


@dataclass(frozen=True)
class Facts:
    """What rules may look at."""

    damage: Damage
    statements: tuple[Statement, ...] = ()
    """Where the change sits, in words: shown, and not judged."""
    looked_at: tuple[Looked, ...] = ()
    settings: tuple[SettingDifference, ...] = ()
    configuration_carries: bool | None = None
    """Whether they compute something else on the prompts that were read; None where that was not measured."""
    unseen: bool = False
    """Whether weights differ and no output on the given prompts does."""

    @classmethod
    def of(cls, content: ComparisonContent) -> "Facts":
        """Those of a comparison, of earlier releases, too: what they do not hold is empty."""
        # Brings numpy along, and who only lists rules or watches the ledger needs none.
        from spinal.analysis.statements import said

        return cls(
            content.damage,
            said(content),
            content.looked_at,
            content.settings,
            configuration_carries(content.accounts),
            _unseen(content),
        )


def _unseen(content: ComparisonContent) -> bool:
    gap = content.damage.signals.get("gap")
    changes = (*(layer.weight_change for layer in content.layers), *content.weight_change_other.values())
    return gap is not None and gap.value == 0.0 and any(change for change in changes)


@dataclass(frozen=True)
class Finding:
    """What one rule makes of the facts. One of outcome ``pass`` is a remark that every verdict carries."""

    outcome: Outcome
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """One question of the gate."""

    name: str
    asks: str
    """The question in words, for the contract."""
    judge: Callable[[Facts], Finding | None]


def _alone(facts: Facts) -> Finding | None:
    """A signal that is damage by itself, surely beyond its limit."""
    reasons = tuple(
        sentence(name, signal) for name, signal in facts.damage.signals.items() if name != MARGIN and _fails(signal)
    )
    return Finding("fail", reasons) if reasons else None


def _margin(facts: Facts) -> Finding | None:
    """The change of the preference margin where pairs were given: a model that prefers what it should not."""
    signal = facts.damage.signals.get(MARGIN)
    if signal is None or signal.value is None or signal.level not in ("watch", "damaged"):
        return None
    return Finding("fail" if _fails(signal) else "warn", (sentence(MARGIN, signal),))


def _together(facts: Facts) -> Finding | None:
    """Signals that warn one by one and agree, while text is predicted worse."""
    signals = facts.damage.signals
    far = [name for name in AGREEING if name in signals and signals[name].level == "damaged"]
    behaviour = signals.get("nll_change")
    if len(far) >= 2 and behaviour is not None and behaviour.level in ("watch", "damaged") and not _fails(behaviour):
        return Finding(
            "fail",
            (
                f"{sentence('nll_change', behaviour)}, and {len(far)} signals of how far it moved agree with that",
                *(sentence(name, signals[name]) for name in far),
            ),
        )
    if facts.damage.level == "damaged" and not any(_fails(signal) for signal in signals.values()):
        return Finding("fail", ("the candidate looks damaged",))
    return None


def _raised(facts: Facts) -> Finding | None:
    """Every signal beyond a limit that is no damage by itself."""
    reasons = tuple(
        sentence(name, signal)
        for name, signal in facts.damage.signals.items()
        if name != MARGIN and signal.value is not None and signal.level in ("watch", "damaged") and not _fails(signal)
    )
    if not reasons and facts.damage.level == "watch" and not _raised_margin(facts):
        reasons = ("a damage signal is raised",)
    return Finding("warn", reasons) if reasons else None


def _settings(facts: Facts) -> Finding | None:
    """Another configuration that computes something else: whoever changed it, it was not trained."""
    gap = facts.damage.signals.get("gap")
    if facts.configuration_carries is False or gap is None or gap.value is None or gap.value <= SAME_OUTPUT:
        return None
    named = [f"{s.key}: {s.reference} -> {s.candidate}" for s in facts.settings if s.computes]
    if not named:
        return None
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    # Without an account nothing tells whether the keys or the weights moved the output.
    told = "computes under" if facts.configuration_carries else "may compute something else under"
    return Finding("warn", (f"{told} another configuration: {', '.join(named[:NAMED])}{more}",))


def _unmeasured(facts: Facts) -> Finding | None:
    """Damage cannot be ruled out where a signal that votes has no value, or none that is sure."""
    reasons = (*_without_value(facts), *_without_interval(facts))
    return Finding("inconclusive", reasons) if reasons else None


def _without_value(facts: Facts) -> Iterator[str]:
    for name, signal in facts.damage.signals.items():
        if signal.watch is not None and signal.value is None:
            yield f"{name} could not be measured ({signal.reason}), so damage cannot be ruled out"


def _without_interval(facts: Facts) -> Iterator[str]:
    """Beyond a limit that is damage by itself, and nothing that tells how sure that is: too few prompts, or a
    comparison of an earlier release."""
    for name, signal in facts.damage.signals.items():
        limit = LIMITS.get(name)
        if limit is None or not limit.fails_alone or signal.value is None or signal.ci is not None or _fails(signal):
            continue
        if signal.damaged is not None and beyond(signal.value, signal.damaged, down=limit.damaged < limit.neutral):
            yield (
                f"{sentence(name, signal)}, without an interval that says how sure that is (at least {MIN_PROMPTS} "
                "prompts, compared by this release)"
            )


def _not_looked_at(facts: Facts) -> Finding | None:
    """What the verdict does not cover, in every verdict."""
    return Finding("pass", tuple(_gaps(facts)))


def _gaps(facts: Facts) -> Iterator[str]:
    named = [looked for looked in facts.looked_at if looked.category is not None]
    few = [f"'{looked.category}' ({looked.scored} of {looked.prompts})" for looked in named if _few(looked)]
    if few:
        more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
        yield (
            f"categories not looked at by themselves, with fewer than {MIN_PROMPTS} scored prompts: "
            f"{', '.join(few[:NAMED])}{more}"
        )
    if facts.unseen:
        yield (
            "weights differ and nothing that was read of the given prompts does: if the difference does anything, "
            "these prompts do not show it"
        )
    ends = [f"{s.key}: {s.reference} -> {s.candidate}" for s in facts.settings if s.part == GENERATION and _ends(s)]
    if ends:
        yield (
            f"answers were ended by configuration and tokenizer; the generation configuration, which ends them in use, "
            f"differs in {', '.join(ends)}"
        )
    told = {tells for name, tells in LOOKS.items() if name in facts.damage.signals and _known(facts, name)}
    absent: dict[str, list[str]] = {}
    for name, tells in LOOKS.items():
        if tells in told:
            # Another signal tells the same.
            continue
        signal = facts.damage.signals.get(name)
        if signal is None:
            absent.setdefault("not in comparisons of that release", []).append(tells)
        elif signal.watch is None and signal.value is None:
            absent.setdefault((signal.reason or "not measured").replace("_", " "), []).append(tells)
    if absent:
        each = (f"{', '.join(dict.fromkeys(of))} ({reason})" for reason, of in absent.items())
        yield f"not looked at: {'; '.join(each)}"
    yield (
        "only the given prompts were looked at: what another language, a trigger or other prompts would show was not, "
        "and intervals cover prompts, not training seeds"
    )


def _ends(setting: SettingDifference) -> bool:
    """Whether a setting of generation says where an answer ends."""
    return setting.key in ENDING


def _known(facts: Facts, name: str) -> bool:
    return facts.damage.signals[name].value is not None


def _few(looked: Looked) -> bool:
    return looked.scored < MIN_PROMPTS


def _fails(signal: DamageSignal) -> bool:
    return signal.fails_alone and signal.level == "damaged"


def _raised_margin(facts: Facts) -> bool:
    return _margin(facts) is not None


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("damage", "does any signal by itself say that the candidate does not work?", _alone),
        Rule("margin", "does it still prefer the answers that it should, where pairs were given?", _margin),
        Rule("agreement", "do signals that only warn agree, while text is predicted worse?", _together),
        Rule("raised", "is any signal worth a look?", _raised),
        Rule("settings", "does it compute under the configuration of the reference?", _settings),
        Rule("damage_measured", "was every damage signal that votes measured, and surely enough?", _unmeasured),
        Rule("not_looked_at", "what does the verdict not cover?", _not_looked_at),
    )
}
"""By name, in the order in which they are asked."""


def decided(content: ComparisonContent) -> tuple[Outcome, tuple[str, ...]]:
    """Outcome and reasons."""
    facts = Facts.of(content)
    findings = [finding for rule in RULES.values() if (finding := rule.judge(facts)) is not None]
    outcome: Outcome = min((finding.outcome for finding in findings), key=WORST_FIRST.index, default="pass")
    said = [
        reason
        for worth in WORST_FIRST
        for finding in findings
        if finding.outcome == worth
        for reason in finding.reasons
    ]
    first = ["no sure sign of damage in anything that was measured"] if outcome == "pass" else []
    return outcome, tuple(dict.fromkeys((*first, *said, *(statement.text for statement in facts.statements))))
