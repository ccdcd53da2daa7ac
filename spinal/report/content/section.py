"""A section of a report."""

from dataclasses import dataclass
from typing import Literal

from spinal.documents.comparison import Statement
from spinal.report.content.cells import Table

About = Literal[
    "works", "changed", "carries", "computes", "strength", "trace", "provenance", "alarms", "signals", "members"
]


@dataclass(frozen=True)
class Section:
    """One question that a report answers: sentences, each with its null, then tables."""

    about: About
    title: str
    said: tuple[Statement, ...]
    tables: tuple[Table, ...]
