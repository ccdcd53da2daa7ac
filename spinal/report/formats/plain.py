"""Text for places that show no more than some characters: plain ones stand for ours."""

import re

from spinal.numbers import SUPERSCRIPTS
from spinal.text import visible

PLAIN = str.maketrans({
    "→": "->", "–": "-", "−": "-", "±": "+-", "×": "x", "≤": "<=", "≥": ">=", "…": "...",
})  # fmt: skip
DIGITS = {code: chr(plain) for plain, code in SUPERSCRIPTS.items()}
POWER = re.compile(r" × 10([⁻⁰¹²³⁴-⁹]+)")


def in_encoding(text: str, encoding: str) -> str:
    """``text`` with what a terminal would obey written out, in characters that ``encoding`` has: ours as plain ones,
    others as escapes.

    >>> in_encoding("a → b: 3.2 × 10⁻⁷", "ascii")
    'a -> b: 3.2e-7'
    """
    seen = visible(text)
    if can_show(seen, encoding):
        return seen
    plain = POWER.sub(lambda found: f"e{found[1].translate(DIGITS)}", seen).translate(PLAIN)
    return plain.encode(encoding, "backslashreplace").decode(encoding)


def can_show(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
