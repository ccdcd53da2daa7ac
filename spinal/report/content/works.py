"""Whether the candidate still works: the damage panel, the rules of the verdict, prompts that moved most."""

from spinal.analysis.human_terms import drawn_differently, one_in, perplexity_ratio, unit_in_words
from spinal.documents.comparison import WORST_FIRST, Comparison, DamageSignal
from spinal.numbers import share
from spinal.report.content.cells import DASH, Table, interval, number
from spinal.report.content.first import limit_of, question, told, value_of
from spinal.report.content.lead import sentence

MOST_PROMPTS = 12


def damage_table(result: Comparison) -> Table:
    rows = [_signal_row(name, signal) for name, signal in result.damage.signals.items()]
    unknown = any(signal.watch is not None and signal.value is None for signal in result.damage.signals.values())
    return Table(
        f"Damage panel: {result.damage.level}{' among what was measured' if unknown else ''}",
        ("signal", "value", "unit", "n", "se", "watch from", "damaged from", "level"),
        tuple(rows),
        result.damage.calibration,
        narrow=(0, 1, 6, 7),
        told_before=True,
    )


def _signal_row(name: str, signal: DamageSignal) -> tuple[str, ...]:
    level = signal.level or (signal.reason or "shown only").replace("_", " ")
    return (
        name.replace("_", " ") + (f" ({signal.of})" if signal.of else ""),
        f"{number(signal.value)} {interval(signal.ci)}".strip(),
        unit_in_words(signal.unit),
        DASH if signal.n is None else str(signal.n),
        number(signal.se, 2),
        number(signal.watch),
        number(signal.damaged) + (", alone enough" if signal.fails_alone else ""),
        level,
    )


def terms_table(result: Comparison) -> Table:
    """The numbers that matter most in terms that need no training."""
    rows = []
    nll = result.damage.signals.get("nll_change")
    if nll is not None and nll.value is not None:
        ratios = None if nll.ci is None else (perplexity_ratio(nll.ci[0]), perplexity_ratio(nll.ci[1]))
        told = f"{number(perplexity_ratio(nll.value))} times {interval(ratios)}".strip()
        rows.append(("perplexity of the same text, candidate over reference", told))
    gap = result.layers[-1].function_gap.all
    if gap.value is not None:
        least, most = drawn_differently(gap.value)
        said = "none" if most == 0.0 else f"between {one_in(least)} and {one_in(most)}"
        rows.append(("next tokens that would be drawn differently", said))
    top = result.damage.signals.get("top_token_changes")
    if top is not None and top.value is not None:
        rows.append(("positions whose most likely token is another", share(top.value)))
    return Table(
        "In other words",
        ("what", "value"),
        tuple(rows),
        "exp of the change of NLL; bounds of the total variation distance for a gap f: 1 - cos(f/2) to sin(f/2).",
    )


def rules_table(result: Comparison) -> Table:
    """Every rule that was asked."""
    rows = [
        (
            question(rule),
            told(rule),
            value_of(rule),
            limit_of(rule),
            " ".join(sentence(why) for why in rule.reasons) or DASH,
        )
        for rule in result.verdict.rules
    ]
    return Table(
        f"Rules of {result.verdict.policy}",
        ("question", "outcome", "value", "bad at", "why"),
        tuple(rows),
        narrow=(0, 1, 2, 3),
        told_before=True,
    )


def rules_summary(result: Comparison) -> str:
    """How many rules found what: ``19 rules: 4 fail, 6 warn, 9 pass``."""
    rules = result.verdict.rules
    waived = sum(rule.waived is not None for rule in rules)
    counted = {
        outcome: sum(rule.outcome == outcome and rule.waived is None for rule in rules) for outcome in WORST_FIRST
    } | {"waived": waived}
    told_each = ", ".join(f"{n} {outcome}" for outcome, n in counted.items() if n)
    return f"{len(rules)} rule{'' if len(rules) == 1 else 's'}: {told_each}"


def looked_table(result: Comparison) -> Table:
    """How many prompts of each category every measurement took."""
    looked = result.looked_at
    rows = [
        (
            one.category or ("no category" if len(looked) > 1 else "all prompts"),
            *map(str, (one.prompts, one.scored, one.swapped, one.accounted, one.continued)),
        )
        for one in looked
    ]
    unseen = [one.category for one in looked if one.category is not None and not (one.scored or one.continued)]
    return Table(
        "What was looked at",
        ("category", "prompts", "scored", "swapped", "accounted for", "continued"),
        tuple(rows),
        (f"Not looked at: {', '.join(unseen)}. " if unseen else "")
        + "Nothing here tells of prompts of other kinds: other languages, other tasks, a trigger that no prompt holds.",
        narrow=(0, 1, 2, 4, 5),
    )


def prompts_table(result: Comparison) -> Table:
    """The prompts that moved most, first."""
    changes = result.prompt_changes
    rows = [
        (
            str(one.prompt),
            one.category or DASH,
            number(one.gap),
            number(one.nll_change),
            number(one.entropy_change),
            share(one.top_changed),
            number(one.block_swap),
        )
        for one in changes[:MOST_PROMPTS]
    ]
    more = f" The document names {len(changes)}." if len(changes) > MOST_PROMPTS else ""
    return Table(
        "Prompts that moved most",
        ("prompt", "category", "gap (rad)", "d NLL", "d entropy", "top token changes", "block swap"),
        tuple(rows),
        "Numbered from 1 in the order of the set, without prompts that were dropped; gap and entropy at the last "
        f"layer.{more}",
        narrow=(0, 1, 2, 3, 5),
    )
