"""Numbers and tables as plain text, however they are drawn."""

import math
from dataclasses import dataclass

from spinal import numbers
from spinal.documents.base import Estimate
from spinal.numbers import DASH, number

__all__ = ["DASH", "Table", "estimate", "interval", "number"]


ROUNDING = 1e-6
"""Ends of an interval that differ by less of their size are one number."""


@dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    narrow: tuple[int, ...] = ()
    """Columns that stay where there is no room for all, the ones that matter most first."""
    weight: tuple[float, ...] = ()
    """How much each row tells: where there are many, the ones that tell least may be folded into one."""
    told_before: bool = False
    """Whether the first screen of a report shows as much, so that a short one leaves the table out."""
    links: tuple[str | None, ...] = ()
    """Where the first cell of each row leads, for formats that have links."""


def interval(ci: tuple[float, float] | None, digits: int = 3) -> str:
    """Both ends in brackets; empty where there are none, or where they are one number but for rounding."""
    if ci is None or math.isclose(*ci, rel_tol=ROUNDING, abs_tol=0.0):
        return ""
    return numbers.interval(*ci, digits)


def estimate(found: Estimate, digits: int = 3) -> str:
    """``value [low, high]``, starred where it stands after correction over layers; the reason for a null."""
    if found.value is None:
        return DASH
    star = " *" if found.significant else ""
    return f"{number(found.value, digits)} {interval(found.ci, digits)}{star}".replace("  ", " ").strip()
