"""What the verdict does not cover, in every verdict."""

from collections.abc import Iterator

from spinal.analysis.damage.limits import MIN_PROMPTS
from spinal.documents.comparison import ComparisonContent
from spinal.documents.policy import NotLookedAtRule
from spinal.policy.kinds.base import NAMED, Answer, Context, Finding, Kind
from spinal.policy.words import LOOKS

GENERATION = "generation"
ENDING = ("eos_token_id", "stop_strings", "max_new_tokens", "max_length", "min_new_tokens", "min_length")
"""Settings of generation that say where an answer ends."""


def _judge(rule: NotLookedAtRule, context: Context) -> Answer:
    return Answer((Finding("pass", gaps(context.content)),))


def gaps(content: ComparisonContent) -> tuple[str, ...]:
    """Sentences on what was not looked at, or could not have been."""
    return tuple(_gaps(content))


def _gaps(content: ComparisonContent) -> Iterator[str]:
    named = [looked for looked in content.looked_at if looked.category is not None]
    few = [f"'{one.category}' ({one.scored} of {one.prompts})" for one in named if one.scored < MIN_PROMPTS]
    if few:
        more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
        yield (
            f"categories not looked at by themselves, with fewer than {MIN_PROMPTS} scored prompts: "
            f"{', '.join(few[:NAMED])}{more}"
        )
    if _unseen(content):
        yield (
            "weights differ and nothing that was read of the given prompts does: if the difference does anything, "
            "these prompts do not show it"
        )
    ends = [
        f"{each.key}: {each.reference} -> {each.candidate}"
        for each in content.settings
        if each.part == GENERATION and each.key in ENDING
    ]
    if ends:
        yield (
            f"answers were ended by configuration and tokenizer; the generation configuration, which ends them in use, "
            f"differs in {', '.join(ends)}"
        )
    yield from _signals(content)
    yield (
        "only the given prompts were looked at: what another language, a trigger or other prompts would show was not, "
        "and intervals cover prompts, not training seeds"
    )


def _signals(content: ComparisonContent) -> Iterator[str]:
    signals = content.damage.signals
    told = {tells for name, tells in LOOKS.items() if name in signals and signals[name].value is not None}
    absent: dict[str, list[str]] = {}
    for name, tells in LOOKS.items():
        if tells in told:
            # Another signal tells the same.
            continue
        signal = signals.get(name)
        if signal is None:
            absent.setdefault("not in comparisons of that release", []).append(tells)
        elif signal.watch is None and signal.value is None:
            absent.setdefault((signal.reason or "not measured").replace("_", " "), []).append(tells)
    if absent:
        each = (f"{', '.join(dict.fromkeys(of))} ({reason})" for reason, of in absent.items())
        yield f"not looked at: {'; '.join(each)}"


def _unseen(content: ComparisonContent) -> bool:
    """Whether weights differ and no output on the given prompts does."""
    gap = content.damage.signals.get("gap")
    changes = (*(layer.weight_change for layer in content.layers), *content.weight_change_other.values())
    return gap is not None and gap.value == 0.0 and any(change for change in changes)


NOT_LOOKED_AT = Kind("not_looked_at", _judge, lambda _rule: ())
