"""Names, times and hosts of documents: taken out of what is shared, filled in for whoever reads.

A trace or a comparison is called by its content. Who asked for it, what the checkpoint is called there, when and where
it was measured belongs to one reader. Required members keep a neutral value.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from spinal.documents.account import Account
from spinal.documents.base import Provenance
from spinal.documents.comparison import ComparisonContent, Side
from spinal.documents.trace import Trace

NO_TIME = "1970-01-01T00:00:00.000Z"
Found = TypeVar("Found", bound=ComparisonContent)


@dataclass(frozen=True)
class Occasion:
    """When somebody came to have a document."""

    at: str = NO_TIME
    """UTC, RFC 3339."""
    duration_s: float = 0.0
    """Seconds of work on it that they waited for."""


def nameless(weights_digest: str) -> str:
    """What a checkpoint is called where nobody's name for it may stand."""
    return f"weights:{weights_digest[:12]}"


def unnamed_trace(trace: Trace) -> Trace:
    """The trace as it is shared: its content alone."""
    return named_trace(trace, source=nameless(trace.model.weights_digest), prompt_set=None, occasion=Occasion())


def named_trace(
    trace: Trace, *, source: str, prompt_set: str | None, occasion: Occasion, remarks: Sequence[str] = ()
) -> Trace:
    """The trace for a reader who calls the checkpoint ``source``, with what is to be said of that reader's files."""
    return trace.remarked(remarks).model_copy(
        update={
            "model": trace.model.model_copy(update={"source": source, "revision": None}),
            "prompt_set": trace.prompt_set.model_copy(update={"name": prompt_set}),
            "provenance": _on(trace.provenance, occasion),
        }
    )


def unnamed_comparison(comparison: Found) -> Found:
    """The comparison as it is shared: its content alone."""
    return named_comparison(comparison, sources={}, occasion=Occasion())


def by_role(remarks: Mapping[str, Sequence[str]]) -> list[str]:
    """Remarks on the sides of a comparison, one that is made on several sides once.

    Examples
    --------
    >>> by_role({"reference": ["a", "b"], "candidate": ["b"]})
    ['reference: a', 'reference and candidate: b']
    """
    roles: dict[str, list[str]] = {}
    for role, said in remarks.items():
        for remark in said:
            roles.setdefault(remark, []).append(role)
    return [f"{' and '.join(of)}: {remark}" for remark, of in roles.items()]


def named_comparison(
    comparison: Found,
    *,
    sources: dict[str, str],
    occasion: Occasion,
    remarks: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Found:
    """The comparison for a reader who calls the checkpoints ``sources``, by role, with what is to be said of that
    reader's files. A role without a name is nameless."""
    updates: dict[str, object] = {"provenance": _on(comparison.provenance, occasion)}
    names: dict[str, str] = {}
    for role in ("reference", "candidate", "control"):
        side: Side | None = getattr(comparison, role)
        if side is not None:
            source = sources.get(role, nameless(side.weights_digest))
            updates[role] = side.model_copy(update={"source": source})
            # Two roles with one name hold one checkpoint, but for their reader's names the weights may be one, too.
            names.setdefault(side.source, source)
    said = _Renaming(names)
    updates["nulls"] = {
        name: null.model_copy(update={"note": said.text(null.note)}) for name, null in comparison.nulls.items()
    }
    updates["statements"] = tuple(
        each.model_copy(update={"text": said.text(each.text), "null": each.null and said.text(each.null)})
        for each in comparison.statements
    )
    for member in ("accounts", "control_accounts", "noise_accounts"):
        accounts: dict[str, Account] = getattr(comparison, member)
        updates[member] = {
            name: account.model_copy(update={"remarks": said.texts(account.remarks)})
            for name, account in accounts.items()
        }
    updates["warnings"] = (*said.texts(comparison.warnings), *by_role(remarks))
    return comparison.model_copy(update=updates)


class _Renaming:
    """Texts with other names for the checkpoints that they name."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        # The longest first: one name may begin another. All at once: a new name may be another's old one.
        ways = sorted(map(re.escape, names), key=len, reverse=True)
        self._old = re.compile("|".join(ways)) if ways else None

    def text(self, text: str) -> str:
        return text if self._old is None else self._old.sub(lambda found: self._names[found[0]], text)

    def texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(map(self.text, texts))


def _on(provenance: Provenance, occasion: Occasion) -> Provenance:
    """What the measurement ran on stays; whose it was, where and when does not."""
    return provenance.model_copy(
        update={"created_at": occasion.at, "duration_s": occasion.duration_s, "hostname": None, "command": None}
    )
