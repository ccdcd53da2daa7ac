"""Finds what a registry never told: it keeps what it could not deliver in memory, and forgets it with a restart."""

import time
from collections.abc import Mapping
from uuid import UUID

import structlog

from service.database.unit_of_work import Ledger
from service.integrations import store
from service.integrations.adapters import adapter_of
from service.integrations.adapters.base import Missed, Sign
from service.integrations.again import tell_again
from service.integrations.store import Look
from service.integrations.verbs import choose
from service.operations.chores import end_turn, take_turn
from service.registries import Registry
from service.settings import Settings
from spinal.errors import DatabaseUnavailable, SpinalError
from spinal.errors.faults import shown

log = structlog.get_logger(__name__)
POLL_S = 240.0
"""So long one poll may take."""
LEASE_S = POLL_S + 60.0
AT_ONCE = 200
"""Versions in one transaction."""
MOST_MISSED = 1000
"""Models that one poll may not be able to look at: of more it is taken that the whole registry cannot be."""
FOUND = "poll"
FORGETTING, FORGET_EVERY_S = "forget events of registries", 3600.0


def poll_those_due(ledger: Ledger, settings: Settings, holder: UUID) -> int:
    """Look through the registries whose turn it is and that nobody else is at; returns how many versions were found.
    What was received long ago is forgotten here, too, also of those that cannot be polled."""
    with ledger.begin() as session:
        if take_turn(session, FORGETTING, holder, lease_s=FORGET_EVERY_S):
            store.forget_events(session)
    found = 0
    for name, registry in settings.registries.by_name.items():
        interval = registry.interval_s
        if interval is None:
            continue
        chore = f"poll {name}"
        with ledger.begin() as session:
            if not take_turn(session, chore, holder, lease_s=LEASE_S):
                continue
        try:
            found += poll(ledger, settings, name, registry)
        finally:
            with ledger.begin() as session:
                end_turn(session, chore, holder, again_in_s=interval)
    return found


def poll(ledger: Ledger, settings: Settings, name: str, registry: Registry) -> int:
    """Ask one registry for all that its rules may choose. What is found is kept, also where something else cannot be
    looked at; what it meets is noted, and told to whoever lists it."""
    with ledger.read() as session:
        looking = _Looking(name, registry, store.known_versions(session, name), store.last_looks(session, name))
    look = adapter_of(registry.kind).look
    assert look is not None, registry.kind
    failure = None
    try:
        for each in look(registry, settings.reach_of(registry.tenant), time.monotonic() + POLL_S):
            looking.take(ledger, each)
    except DatabaseUnavailable:
        raise
    except SpinalError as error:
        failure = error
    looking.keep(ledger)
    with ledger.begin() as session:
        store.note_poll(session, name, registry.tenant, looking.looks(failure))
    if failure is None:
        tell_again(ledger, settings, name, registry)
    looking.tell(failure)
    return looking.found


class _Looking:
    """One look through a registry."""

    def __init__(
        self,
        name: str,
        registry: Registry,
        known: set[tuple[str, str, str]],
        before: Mapping[tuple[str, str], frozenset[str]],
    ) -> None:
        self._name, self._registry, self._known = name, registry, known
        self._unseen_before = {rule.name: before.get((rule.name, rule.selection)) for rule in registry.rules}
        """Rule -> models that no look for it came to; None for a rule that was never looked for as it is now."""
        self._missed: dict[str, SpinalError] = {}
        self._new: list[Sign] = []
        self.found = 0

    def take(self, ledger: Ledger, each: Sign | Missed) -> None:
        if isinstance(each, Missed):
            self._missed.setdefault(each.model, each.error)
            if len(self._missed) > MOST_MISSED:
                raise each.error
            return
        if any(
            each.is_chosen_by(rule) and (each.model, each.version, rule.name) not in self._known
            for rule in self._registry.rules
        ):
            self._new.append(each)
        if len(self._new) >= AT_ONCE:
            self.keep(ledger)

    def keep(self, ledger: Ledger) -> None:
        """Write down what was found so far."""
        if not self._new:
            return
        with ledger.begin() as session:
            chosen = choose(
                session, self._name, self._registry, self._new, FOUND, is_past=self._is_past, known=self._known
            )
        self._new = []
        self.found += sum(each.fresh and not self._is_past(each.rule, each.model) for each in chosen)

    def _is_past(self, rule: str, model: str) -> bool:
        """What was there before a rule was first looked for is the past, unless the operator wants it, too."""
        unseen = self._unseen_before[rule]
        return not self._registry.backfill and (unseen is None or model in unseen)

    def looks(self, failure: SpinalError | None) -> list[Look]:
        """What came of it for each rule. ``failure``: why the look did not come to its end."""
        if failure is not None:
            return [Look(rule.name, failure.to_problem(), None) for rule in self._registry.rules]
        looks = []
        for rule in self._registry.rules:
            missed = [model for model in self._missed if rule.names(model)]
            before = self._unseen_before[rule.name]
            unseen = frozenset(missed) if before is None else before.intersection(missed)
            problem = self._missed[missed[0]].to_problem() | {"model": shown(missed[0])} if missed else None
            looks.append(Look(rule.name, problem, rule.selection, unseen))
        return looks

    def tell(self, failure: SpinalError | None) -> None:
        if failure is not None:
            log.warning("poll of a registry failed", registry=self._name, code=failure.code, detail=failure.detail)
        for model, error in list(self._missed.items())[:1]:
            log.warning(
                "models of a registry cannot be looked at",
                registry=self._name, models=len(self._missed), first=shown(model), code=error.code, detail=error.detail,
            )  # fmt: skip
        if self.found:
            log.info("found what a registry had not told", registry=self._name, versions=self.found)
