"""One thing that a judgement says, and names and texts as readers that count take them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spinal.documents.comparison import WORST_FIRST, Outcome
from spinal.text import visible

LONGEST = 2000
"""Characters of a text in a report for pipelines: they cut longer ones themselves, or refuse the file."""
LONGEST_NAME = 200
VERSION = re.compile(
    r"^(v?\d[\d._-]*|(checkpoint|step|epoch|iter|global_step|run|rev|release)[-_]?\d+|[0-9a-f]{12,64}|latest)$",
    re.IGNORECASE,
)
"""A part of a reference that is a version and nothing else."""


@dataclass(frozen=True)
class Case:
    """What one rule found, or, named after the whole, what a judgement says and none of its cases does."""

    name: str
    outcome: Outcome
    asks: str
    """The question in words; empty where it was not kept."""
    severity: Literal["fail", "warn"] | None
    message: str
    """The reasons, or what was found beside the limit; one line."""
    numbers: dict[str, str]
    """Value, interval, limit and where they stand, as text; what was not kept is left out."""
    waived: tuple[str, str, Outcome] | None = None
    """Reason, last day, and what the rule found."""
    left_out: bool = False
    """Whether nothing was looked at, and nothing was asked for; the message says why."""
    rule: str = ""
    """What several cases have in common, where the name is of one of them alone."""

    @property
    def worth(self) -> Outcome:
        """What the rule found, whether or not it counts."""
        return self.outcome if self.waived is None else self.waived[2]

    def fails(self, fail_on: Literal["fail", "warn"]) -> bool:
        """Whether it stops a pipeline: ``fail``, ``inconclusive``, and ``warn`` where that is to."""
        return self.outcome in ("fail", "inconclusive") or (self.outcome == "warn" and fail_on == "warn")


@dataclass(frozen=True)
class Judgement:
    """What a policy makes of a document, as pipelines ask for it."""

    outcome: Outcome
    word: str
    """The same as the document calls it."""
    policy: str
    reasons: tuple[str, ...]
    decided_by: str | None
    """The case that made it, where one did."""
    kind: str
    """Of the document."""
    digest: str
    weights: Mapping[str, str]
    """Role -> digest of its weights."""
    steps: Mapping[str, int]
    """What a training run is asked for -> a step of it; empty for anything else."""


def short(text: str, longest: int = LONGEST) -> str:
    """One line in characters that can be seen, not longer than that."""
    # Cut before and after: what is written out is longer, and ten megabytes of it would be made for nothing.
    line = visible(" ".join(text[: 4 * longest].split()))
    return line if len(line) <= longest and len(text) <= 4 * longest else f"{line[: longest - 1]}…"


def figure(value: float) -> str:
    """A number for readers that compare texts: six digits, the same on every machine."""
    return f"{value:.6g}"


def model_name(source: str) -> str:
    """What a checkpoint is called, whichever version it is: a reference without its revision, and without parts that
    are versions by themselves. A name that is nothing else stays.

    >>> model_name("hf:acme/chat@3f2a"), model_name("mlflow:chat/12"), model_name("local:chat/checkpoint-1200")
    ('hf:acme/chat', 'mlflow:chat', 'local:chat')
    >>> model_name("local:dpo-short")
    'local:dpo-short'
    """
    kind, colon, rest = source.rpartition(":") if source.count(":") == 1 else ("", "", source)
    parts = [part for part in rest.partition("@")[0].split("/") if part]
    kept = [part for part in parts if not VERSION.match(part)] or parts or [rest]
    return f"{kind}{colon}{'/'.join(kept)}"


def with_whole(found: tuple[Case, ...], whole: Case) -> tuple[Case, ...]:
    """The cases, after the whole judgement where none of them is as bad: no reader of the cases alone takes a document
    for milder than it is."""
    worst = min((one.outcome for one in found), key=WORST_FIRST.index, default=None)
    told = worst is not None and WORST_FIRST.index(worst) <= WORST_FIRST.index(whole.outcome)
    return found if told else (whole, *found)
