"""The kinds of run, one entry each: how a kind is queued and tried, what carries it out, where its result lies.

A new kind is an entry here and a module in ``worker/kinds``. Its version starts at 4 or later: workers from before this
table know runs by their version alone, and leave those of a later one to later workers.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from service.database.record import NAME
from service.runs.specs import newest_version, spec_version
from service.settings import Settings

Reach = Literal["models", "engine", "artifacts"]
"""The model roots, the measuring engine (and with it torch and the device), the artifact store."""


@dataclass(frozen=True)
class Attempts:
    """How many attempts a run gets, and the pause between two of them."""

    most: int
    backoff_s: float
    """Base of the pause, doubled with each attempt, with jitter."""


SCHEDULE_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Pauses between attempts of a delivery: the schedule of the Standard Webhooks specification."""


def _attempts(settings: Settings) -> Attempts:
    return Attempts(settings.max_attempts, settings.backoff_s)


@dataclass(frozen=True)
class Kind:
    """One kind of run. What depends on the installation is asked of its settings."""

    name: str
    version: int
    """The newest version of its specifications that this code carries out."""
    carry_out: str
    """``module:function`` of the worker. The function takes a ``worker.job.Job`` and ends it with the result."""
    result: str
    """Table that holds the result, in the row whose ``digest`` is the run's ``result_digest``."""
    reaches: frozenset[Reach] = frozenset()
    """What a job of this kind is given."""
    queue: Callable[[Settings], str] = lambda settings: settings.trace_queue
    attempts: Callable[[Settings], Attempts] = _attempts
    deadline_s: Callable[[Settings], float] = lambda settings: settings.run_deadline_s
    """An attempt that takes longer is ended."""
    asks: Callable[[dict[str, Any]], int] | None = None
    """The version that a specification asks for (``runs.spec_version``); None where all ask for the newest."""

    def version_of(self, spec: dict[str, Any]) -> int:
        """The version that a worker has to know to carry out ``spec``."""
        return self.version if self.asks is None else self.asks(spec)

    def __post_init__(self) -> None:
        if not (re.fullmatch(NAME, self.name) and re.fullmatch(NAME, self.result)):
            raise ValueError(f"kind {self.name!r} with results in {self.result!r}: expected names like {NAME}")


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "trace",
            version=newest_version(),
            asks=spec_version,
            carry_out="worker.kinds.trace:carry_out",
            result="traces",
            reaches=frozenset({"models", "engine", "artifacts"}),
        ),
        Kind(
            "compare",
            version=newest_version(),
            asks=spec_version,
            carry_out="worker.kinds.compare:carry_out",
            result="comparisons",
            reaches=frozenset({"models", "engine", "artifacts"}),
        ),
        Kind(
            "deliver",
            version=6,
            carry_out="worker.kinds.deliver:carry_out",
            result="deliveries",
            queue=lambda settings: settings.delivery_queue,
            # Its pauses are those of SCHEDULE_S; the backoff is that of attempts whose worker died.
            attempts=lambda settings: Attempts(len(SCHEDULE_S) + 1, settings.backoff_s),
            deadline_s=lambda settings: settings.delivery_answer_s + 60.0,
        ),
    )
}


class UnknownKind(LookupError):
    """A kind of run that this code does not have."""


def kind_named(name: str) -> Kind:
    """The kind ``name``; raises UnknownKind."""
    if name not in KINDS:
        raise UnknownKind(f"no kind of run is called {name!r}; known are {', '.join(KINDS)}")
    return KINDS[name]


def attempts_of(name: str, settings: Settings) -> Attempts:
    """Attempts of a run of the kind ``name``. Lost runs of a kind that only later code has are taken back, too: they
    get what the settings say."""
    return KINDS[name].attempts(settings) if name in KINDS else _attempts(settings)


IS_KNOWN = "spec_version <= CAST(CAST(:known AS jsonb)->>kind AS int)"
"""SQL: this code carries out such a run. Not so (null) where it does not know the kind. For ``known_versions()``."""
LOCK_ORDER = "COALESCE(depth, CAST(kind = 'compare' AS int)), spec_digest"
"""SQL: the order in which runs are locked, by the depth of their specifications first. Runs that the release before
made say none: among those only comparisons needed others."""


def known_versions() -> str:
    """Newest version of each kind, as JSON."""
    return json.dumps({kind.name: kind.version for kind in KINDS.values()})
