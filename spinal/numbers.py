"""Numbers as a reader meets them, the same in sentences and in every format: plain notation, digits that mean
something, one sign.

Values are written to significant digits. Ends of an interval get as many decimals as tell them apart.
"""

import math
from collections.abc import Sequence

DASH = "–"
MINUS = "−"
SMALLEST, LARGEST = 1e-4, 1e6
"""Between these a value is written out; outside them as a power of ten."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 3) -> str:
    """A value to significant digits; a dash for a null.

    >>> number(0.53777), number(-2.0), number(12345.6), number(3.2e-7), number(None)
    ('0.538', '−2', '12,346', '3.2 × 10⁻⁷', '–')
    """
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0.0:
        return "0"
    if not SMALLEST <= abs(value) < LARGEST:
        mantissa, _, power = f"{value:.{max(digits - 2, 0)}e}".partition("e")
        return _signed_minus(f"{mantissa} × 10{str(int(power)).translate(SUPERSCRIPTS)}")
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return _written(value, decimals)


def signed(value: float | None, digits: int = 3) -> str:
    """A change: with its sign, whichever it is.

    >>> signed(3.5), signed(-0.25), signed(0.0)
    ('+3.5', '−0.25', '0')
    """
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0.0 and text not in ("0", DASH) else text


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """Both ends in brackets, with decimals enough to tell them apart; empty where an end is missing.

    >>> interval(0.5361, 0.5389), interval(-0.02, 1.5), interval(2.0, 2.0), interval(99.0, 101.0), interval(None, 1.0)
    ('[0.536, 0.539]', '[−0.02, 1.5]', '[2, 2]', '[99, 101]', '')
    """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    least, most = number(low, digits), number(high, digits)
    while least == most and low != high and digits < 12:
        digits += 1
        least, most = number(low, digits), number(high, digits)
    return f"[{least}, {most}]"


def share(value: float | None, ci: Sequence[float] | None = None) -> str:
    """A share of one as per cent, never as a fraction beside it: with one decimal below ten. Ends that are one number
    are left out.

    >>> share(0.804), share(0.0213), share(-0.0001), share(1.0), share(0.5, (0.421, 0.57)), share(None)
    ('80%', '2.1%', '0%', '100%', '50% [42%, 57%]', '–')
    >>> share(0.113, (0.1123, 0.1137)), share(1.0, (1.0, 1.0)), share(-0.02, (-0.024, 0.009))
    ('11% [11.2%, 11.4%]', '100%', '−2% [−2.4%, 0.9%]')
    """
    if value is None or not math.isfinite(value):
        return DASH
    if ci is None:
        return _percent(value)
    ends = (_percent(ci[0]), _percent(ci[1]))
    if ends[0] == ends[1] and ci[0] != ci[1]:
        ends = (f"{_written(100.0 * ci[0], 1)}%", f"{_written(100.0 * ci[1], 1)}%")
    return _percent(value) + (f" [{', '.join(ends)}]" if ends[0] != ends[1] else "")


def percentile(value: float | None) -> str:
    """A percentile (0-100) as a place among all, no power of ten.

    >>> percentile(100.0), percentile(97.5), percentile(0.0)
    ('100', '97.5', '0')
    """
    return DASH if value is None or not math.isfinite(value) else _written(value, 1)


def count(value: int | None) -> str:
    """A whole number, thousands apart.

    >>> count(64), count(20480)
    ('64', '20,480')
    """
    return DASH if value is None else f"{value:,}"


def _percent(value: float) -> str:
    hundred = 100.0 * value
    return f"{_written(hundred, 1 if 0.05 <= abs(hundred) < 9.95 else 0)}%"


def _written(value: float, decimals: int) -> str:
    """With so many decimals at most, thousands apart, a true minus and never minus nought."""
    text = f"{value:,.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "0") else _signed_minus(text)


def _signed_minus(text: str) -> str:
    return text.replace("-", MINUS, 1) if text.startswith("-") else text
