"""Numbers, blocks and settings as a sentence says them."""

from collections.abc import Iterable, Sequence

from spinal.documents.base import Estimate
from spinal.documents.comparison import SettingDifference
from spinal.numbers import interval, number, share, signed

SHOWN_SETTINGS = 4
SETTING_LENGTH = 60
PARTS = {"generation": "generation configuration"}


def runs(blocks: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Blocks as runs of neighbours.

    >>> runs([1, 2, 3, 9, 11, 12])
    ((1, 3), (9, 9), (11, 12))
    """
    found: list[tuple[int, int]] = []
    for block in sorted(set(blocks)):
        if found and found[-1][1] == block - 1:
            found[-1] = (found[-1][0], block)
        else:
            found.append((block, block))
    return tuple(found)


def spans(found: Sequence[tuple[int, int]]) -> str:
    """Runs of blocks without the word.

    >>> spans(((1, 3), (9, 9)))
    '1-3 and 9'
    """
    return listed([str(low) if low == high else f"{low}-{high}" for low, high in found])


def named(found: Sequence[tuple[int, int]]) -> str:
    """Runs of blocks with the word.

    >>> named(((9, 9),)), named(((1, 3), (9, 9)))
    ('block 9', 'blocks 1-3 and 9')
    """
    single = len(found) == 1 and found[0][0] == found[0][1]
    return f"{'block' if single else 'blocks'} {spans(found)}"


def listed(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def share_of(found: Estimate) -> str:
    """A share with its interval, where that is more than one number.

    >>> share_of(Estimate(value=0.4, ci=(0.35, 0.44))), share_of(Estimate(value=1.0, ci=(1.0, 1.0)))
    ('40% [35%, 44%]', '100%')
    """
    return "an unknown part" if found.value is None else share(found.value, found.ci)


def nats(found: Estimate, *, signs: bool = True) -> str:
    """A number of nats with its interval.

    >>> nats(Estimate(value=5.24, ci=(2.93, 7.49))), nats(Estimate(value=0.05, ci=(0.05, 0.05)), signs=False)
    ('+5.24 nats [2.93, 7.49]', '0.05 nats')
    """
    if found.value is None:
        return "an unknown number of nats"
    ends = "" if found.ci is None or found.ci[0] == found.ci[1] else f" {interval(*found.ci)}"
    return f"{(signed if signs else number)(found.value)} nats{ends}"


def reason_in_words(reason: str | None) -> str:
    return (reason or "not_measured").replace("_", " ")


def settings_in_words(settings: Sequence[SettingDifference]) -> str:
    """``configuration differs in rope_theta: 10000.0 -> 500.0; the chat template differs``."""
    parts = []
    for part in dict.fromkeys(setting.part for setting in settings):
        name = PARTS.get(part, part)
        if part == "chat template":
            parts.append("the chat template differs")
            continue
        # What shapes the computation must not fall behind the last one that is named.
        inside = sorted((one for one in settings if one.part == part), key=lambda one: not one.computes)
        keys = [f"{one.key}: {_value(one.reference)} -> {_value(one.candidate)}" for one in inside[:SHOWN_SETTINGS]]
        more = len(inside) - len(keys)
        parts.append(f"{name} differs in {', '.join(keys)}" + (f" and {more} more" if more else ""))
    return "; ".join(parts)


def _value(value: str | None) -> str:
    if value is None:
        return "not given"
    return value if len(value) <= SETTING_LENGTH else f"{value[: SETTING_LENGTH - 1]}…"
