"""What verdicts on checkpoints of known truth amount to: misses, false alarms, and limits that were taken elsewhere."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SMALLEST_RATIO = 1e-3
Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One judged checkpoint."""

    ancestor: str
    name: str
    truth: str
    outcome: str
    reasons: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    signals: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name: value, ci, level, watch, damaged, fails_alone, of."""


def save(rows: Iterable[Row], path: Path) -> None:
    """Write rows as JSON."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False), encoding="utf-8")


def read(path: Path) -> list[Row]:
    """The inverse of :func:`save`."""
    return [Row(**held) for held in json.loads(path.read_text(encoding="utf-8"))]


def wilson(hits: int, total: int) -> Interval:
    """95% interval of a rate by Wilson's score; (0, 1) without any case."""
    if not total:
        return 0.0, 1.0
    z, rate = 1.959964, hits / total
    middle = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(name: str, wrong: Sequence[Row], total: int) -> str:
    """A count with its interval and what it is made of."""
    low, high = wilson(len(wrong), total)
    named = ", ".join(f"{row.ancestor}/{row.name} ({row.outcome})" for row in wrong)
    return f"{name}: {len(wrong)} of {total} [{low:.2f}, {high:.2f}] {named}".rstrip()


def summary(rows: Sequence[Row]) -> list[str]:
    """Misses and false alarms, a warning counted apart."""
    good = [row for row in rows if row.truth in ("good", "harmless")]
    bad = [row for row in rows if row.truth == "bad"]
    lines = [
        rate("misses, bad that pass", [row for row in bad if row.outcome == "pass"], len(bad)),
        rate("bad that do not fail", [row for row in bad if row.outcome != "fail"], len(bad)),
        rate("false alarms, good that fail", [row for row in good if row.outcome == "fail"], len(good)),
        rate("good that do not pass", [row for row in good if row.outcome != "pass"], len(good)),
    ]
    hidden = [row for row in rows if row.truth == "hidden"]
    return lines + [f"not shown by the given prompts: {row.ancestor}/{row.name}: {row.outcome}" for row in hidden]


def badness(name: str, signal: dict[str, Any]) -> float | None:
    """The value of a signal, turned so that more is worse; None where it has none or does not vote."""
    value, limit = signal.get("value"), signal.get("damaged")
    if value is None or limit is None:
        return None
    watch = signal["watch"]
    # A limit that falls from watch to damaged is one of a signal that is worse the lower it is; of a ratio, which is
    # worse on either side, the reciprocal is what its other limits are for.
    falling = limit < watch or (limit == watch and limit < 0.0)
    if falling and limit > 0.0:
        return 1.0 / max(value, SMALLEST_RATIO)
    return -value if falling else value


def worst(rows: Sequence[Row], name: str, *truths: str) -> list[tuple[float, Row]]:
    """Badness of one signal over the rows of some truths, rising."""
    found = [(badness(name, row.signals[name]), row) for row in rows if row.truth in truths and name in row.signals]
    return sorted(((value, row) for value, row in found if value is not None), key=lambda pair: pair[0])


def names_of(rows: Sequence[Row]) -> list[str]:
    """All signals that vote anywhere, in their first order."""
    return list(
        dict.fromkeys(name for row in rows for name, signal in row.signals.items() if badness(name, signal) is not None)
    )


def limit_from(rows: Sequence[Row], name: str) -> float | None:
    """Halfway between the worst good value and the mildest bad one beyond it; None where no bad one lies beyond."""
    good, bad = worst(rows, name, "good", "harmless"), worst(rows, name, "bad")
    # What is better than its reference is not bad, even where everything good is better still.
    top = max([0.0, *(value for value, _ in good)])
    beyond = [value for value, _ in bad if value > top]
    return (top + beyond[0]) / 2.0 if beyond else None


def extremes(rows: Sequence[Row]) -> list[str]:
    """By signal and ancestor: the worst good value, and the mildest bad one beyond it. More is worse."""
    ancestors = list(dict.fromkeys(row.ancestor for row in rows))
    lines = ["more is worse; a signal is there to find some kinds of damage, not all: 'found' counts bad ones beyond"]
    lines.append(f"{'signal':28} {'ancestor':9} {'worst good':>11}  {'mildest bad beyond it':>11}  found")
    for name in names_of(rows):
        for ancestor in ancestors:
            mine = [row for row in rows if row.ancestor == ancestor]
            good, bad = worst(mine, name, "good", "harmless"), worst(mine, name, "bad")
            if not good or not bad:
                continue
            top, who = good[-1]
            beyond = [(value, row) for value, row in bad if value > top]
            mild = f"{beyond[0][0]:11.3f} ({beyond[0][1].name})" if beyond else f"{'-':>11}"
            lines.append(f"{name:28} {ancestor:9} {top:11.3f} ({who.name})  {mild}  {len(beyond)}/{len(bad)}")
    return lines


def transferred(rows: Sequence[Row]) -> list[str]:
    """Limits taken from all ancestors but one, and what they make of that one, in turn. Every signal that fails alone
    has a say; where none does (panels of earlier releases), every one that votes."""
    ancestors = list(dict.fromkeys(row.ancestor for row in rows))
    alone = [name for name in names_of(rows) if any(row.signals.get(name, {}).get("fails_alone") for row in rows)]
    voting = alone or names_of(rows)
    lines = []
    wrong: dict[str, list[Row]] = {"misses": [], "false alarms": []}
    for left_out in ancestors:
        others = [row for row in rows if row.ancestor != left_out]
        limits = {name: limit for name in voting if (limit := limit_from(others, name)) is not None}
        lines.append(f"judged: {left_out}; limits from {', '.join(a for a in ancestors if a != left_out)}")
        lines.append("  " + ", ".join(f"{name} {limit:.3g}" for name, limit in limits.items()))
        for row in (row for row in rows if row.ancestor == left_out):
            raised = [name for name, limit in limits.items() if _beyond(row, name, limit)]
            if row.truth == "bad" and not raised:
                wrong["misses"].append(row)
                lines.append(f"  missed: {row.name}")
            if row.truth in ("good", "harmless") and raised:
                wrong["false alarms"].append(row)
                lines.append(f"  false alarm: {row.name} ({', '.join(raised)})")
    bad = sum(row.truth == "bad" for row in rows)
    good = sum(row.truth in ("good", "harmless") for row in rows)
    lines.append(rate("misses with limits from elsewhere", wrong["misses"], bad))
    lines.append(rate("false alarms with limits from elsewhere", wrong["false alarms"], good))
    return lines


def _beyond(row: Row, name: str, limit: float) -> bool:
    value = badness(name, row.signals.get(name, {}))
    return value is not None and value > limit
