"""Small changes of an SQL statement, each of which a test should notice. Text in, text out; nothing is executed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<string>'(?:[^']|'')*')|(?P<hole>\{\{|\}\}|\{[^{}]*\})|(?P<cast>::)|(?P<param>:[A-Za-z_]\w*)
      |(?P<word>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)|(?P<number>\d+(?:\.\d+)?)|(?P<op>->>|->|=>|<=|>=|<>|.)""",
    re.VERBOSE | re.DOTALL,
)
LOOKS_LIKE_SQL = re.compile(r"\b(SELECT|UPDATE|INSERT INTO|DELETE FROM|ORDER BY|LIMIT|EXISTS)\b")
RINGS = (
    ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"),
    ("succeeded", "failed", "cancelled", "released", "lost", "retry"),
    ("trace", "compare"),
    ("candidate", "reference", "control", "compare"),
)
"""Closed vocabularies: a word is exchanged for the next of its own."""
TWINS = {
    "<=": "<", "<": "<=", ">=": ">", ">": ">=", "<>": "=", "+": "-", "-": "+", "*": "/",
    "GREATEST": "LEAST", "LEAST": "GREATEST", "MIN": "max", "MAX": "min", "TRUE": "FALSE", "FALSE": "TRUE",
    "DESC": "", "LEFT": "",
}  # fmt: skip
ENDS_CONDITION = frozenset(
    [
        "WHERE",
        "GROUP",
        "HAVING",
        "ORDER",
        "LIMIT",
        "FOR",
        "RETURNING",
        "DO",
        "UNION",
        "THEN",
        "ELSE",
        "END",
        "JOIN",
        "LEFT",
        "ON",
        "SET",
        "WHEN",
    ]
)


@dataclass(frozen=True)
class Token:
    """``code`` is the text in capitals for words, as written for all else; ``depth`` counts open parentheses."""

    kind: str
    code: str
    start: int
    end: int
    depth: int


@dataclass(frozen=True)
class Change:
    """``text[start:end]`` becomes ``new``."""

    start: int
    end: int
    new: str

    def apply(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]


def looks_like_sql(text: str) -> bool:
    return LOOKS_LIKE_SQL.search(text) is not None


def changes(text: str) -> list[Change]:
    """Every change of a statement, or of a part of one, in order of place.

    >>> [change.apply("SELECT a FROM t WHERE b AND c <= 1") for change in changes("SELECT a FROM t WHERE b AND c <= 1")]
    ... # doctest: +NORMALIZE_WHITESPACE
    ['SELECT a FROM t WHERE TRUE AND c <= 1', 'SELECT a FROM t WHERE b AND TRUE',
     'SELECT a FROM t WHERE b AND c < 1', 'SELECT a FROM t WHERE b AND c <= 2']
    """
    tokens = _tokens(text)
    found = {
        *_conditions(tokens),
        *_single_tokens(tokens),
        *_negations(tokens),
        *_words(text, tokens),
        *_clauses(tokens),
        *_assignments(tokens),
        *_coalesced(text, tokens),
    }
    return sorted(found, key=lambda change: (change.start, change.end, change.new))


def _tokens(text: str) -> list[Token]:
    tokens, depth = [], 0
    for match in TOKEN.finditer(text):
        kind, code = match.lastgroup or "op", match.group()
        if kind == "space":
            continue
        depth -= code == ")"
        tokens.append(Token(kind, code.upper() if kind == "word" else code, match.start(), match.end(), depth))
        depth += code == "("
    return tokens


def _end_of_condition(tokens: list[Token], first: int, depth: int) -> int:
    for index in range(first, len(tokens)):
        token = tokens[index]
        if token.depth < depth or (token.depth == depth and token.code in ENDS_CONDITION) or token.code == ";":
            return index
    return len(tokens)


def _conditions(tokens: list[Token]) -> Iterator[Change]:
    """Terms of WHERE, HAVING, ON and WHEN, each taken out."""
    for index, token in enumerate(tokens):
        following = tokens[index + 1].code if index + 1 < len(tokens) else ""
        if token.code not in ("WHERE", "HAVING", "ON", "WHEN") or following == "CONFLICT":
            continue
        last = _end_of_condition(tokens, index + 1, token.depth)
        yield from _terms(tokens, index + 1, last, token.depth)
        if token.code == "WHEN" and last > index + 1:
            yield Change(tokens[index + 1].start, tokens[last - 1].end, "FALSE")


def _split(tokens: list[Token], first: int, last: int, depth: int, word: str) -> list[tuple[int, int]]:
    """Ranges of tokens between ``word`` at ``depth``."""
    cuts = [at for at in range(first, last) if tokens[at].code == word and tokens[at].depth == depth]
    starts, ends = [first, *(cut + 1 for cut in cuts)], [*cuts, last]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if end > start]


def _terms(tokens: list[Token], first: int, last: int, depth: int) -> Iterator[Change]:
    either = _split(tokens, first, last, depth, "OR")
    for start, end in either:
        if len(either) > 1:
            yield Change(tokens[start].start, tokens[end - 1].end, "FALSE")
        both = _split(tokens, start, end, depth, "AND")
        for low, high in both:
            if len(either) == 1 or len(both) > 1:
                yield Change(tokens[low].start, tokens[high - 1].end, "TRUE")
            inner = low + (tokens[low].code == "NOT")
            if tokens[inner].code == "(" and inner + 1 < high and tokens[inner + 1].code != "SELECT":
                close = next(at for at in range(inner + 1, high) if tokens[at].depth == depth)
                if len(_split(tokens, inner + 1, close, depth + 1, "OR")) > 1 or close == high - 1:
                    yield from _terms(tokens, inner + 1, close, depth + 1)


def _single_tokens(tokens: list[Token]) -> Iterator[Change]:
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else None
        if token.kind == "number" and before is not None and before.code not in ("SELECT", "ALL"):
            yield Change(token.start, token.end, str(float(token.code) + 1).removesuffix(".0"))
        if token.code not in TWINS:
            continue
        operand = before is not None and (before.kind in ("word", "number", "param") or before.code == ")")
        if token.code in "+-*" and (not operand or before.code in ("SELECT", "THEN", "ELSE")):  # type: ignore[union-attr]  # an operand stands before
            continue
        yield Change(token.start, token.end, TWINS[token.code])


def _negations(tokens: list[Token]) -> Iterator[Change]:
    for index, token in enumerate(tokens):
        before = tokens[index - 1].code if index else ""
        if token.code == "NOT":
            yield Change(token.start, token.end, "")
        if token.code in ("NULL", "DISTINCT") and before == "IS":
            yield Change(token.start, token.start, "NOT ")


def _words(text: str, tokens: list[Token]) -> Iterator[Change]:
    """Words of a closed vocabulary: out of a list, or exchanged."""
    for index, token in enumerate(tokens):
        word = token.code.strip("'")
        ring = next((ring for ring in RINGS if word in ring), None)
        if token.kind != "string" or ring is None:
            continue
        opening = next((at for at in range(index, -1, -1) if tokens[at].depth < token.depth), -1)
        if opening > 0 and tokens[opening - 1].code == "IN":
            yield Change(token.start, token.end, "'-'")
        else:
            yield Change(token.start, token.end, f"'{ring[(ring.index(word) + 1) % len(ring)]}'")


def _clauses(tokens: list[Token]) -> Iterator[Change]:
    """ORDER BY, LIMIT, locks and ON CONFLICT, each taken out."""
    codes = [token.code for token in tokens]
    for index, token in enumerate(tokens):
        if token.code == "ORDER":
            last = _end_of_condition(tokens, index + 1, token.depth)
            yield Change(token.start, tokens[last - 1].end, "")
        elif token.code == "LIMIT" and index + 1 < len(tokens):
            yield Change(token.start, tokens[index + 1].end, "")
        elif token.code == "FOR" and "UPDATE" in codes[index : index + 4]:
            update = index + codes[index : index + 4].index("UPDATE")
            skips = codes[update + 1 : update + 3] == ["SKIP", "LOCKED"]
            yield Change(token.start, tokens[update + 2 * skips].end, "")
            if skips:
                yield Change(tokens[update + 1].start, tokens[update + 2].end, "")
        elif codes[index : index + 2] == ["ON", "CONFLICT"]:
            nothing = next((at for at in range(index, len(tokens)) if codes[at] == "NOTHING"), None)
            if nothing is not None:
                yield Change(token.start, tokens[nothing].end, "")


def _assignments(tokens: list[Token]) -> Iterator[Change]:
    """Assignments of a SET that has several, each taken out."""
    for index, token in enumerate(tokens):
        if token.code != "SET":
            continue
        last = next(
            (
                at
                for at in range(index + 1, len(tokens))
                if tokens[at].depth < token.depth
                or (tokens[at].depth == token.depth and tokens[at].code in ("WHERE", "FROM", "RETURNING"))
            ),
            len(tokens),
        )
        parts = _split(tokens, index + 1, last, token.depth, ",")
        for number, (start, end) in enumerate(parts):
            if len(parts) == 1:
                continue
            if number + 1 < len(parts):
                yield Change(tokens[start].start, tokens[end].end, "")
            else:
                yield Change(tokens[start - 1].start, tokens[end - 1].end, "")


def _coalesced(text: str, tokens: list[Token]) -> Iterator[Change]:
    """The second choice first."""
    for index, token in enumerate(tokens):
        if token.code != "COALESCE":
            continue
        close = next(at for at in range(index + 2, len(tokens)) if tokens[at].depth == token.depth)
        parts = _split(tokens, index + 2, close, token.depth + 1, ",")
        if len(parts) == 2:
            one, other = (text[tokens[start].start : tokens[end - 1].end] for start, end in parts)
            yield Change(tokens[index + 2].start, tokens[close - 1].end, f"{other}, {one}")


def inside(literal: str) -> list[Change]:
    """Changes of a Python string literal whose content looks like SQL, prefix and quotes left alone."""
    opening = re.match(r"[A-Za-z]*('''|\"\"\"|'|\")", literal)
    if opening is None:
        return []
    start, end = opening.end(), len(literal) - len(opening.group(1))
    body = literal[start:end]
    if not looks_like_sql(body):
        return []
    return [replace(change, start=change.start + start, end=change.end + start) for change in changes(body)]
