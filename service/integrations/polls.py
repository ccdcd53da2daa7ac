"""Finds what a registry never told: it keeps what it could not deliver in memory, and forgets it with a restart."""

import time
from uuid import UUID

import structlog

from service.database.unit_of_work import Ledger
from service.integrations import store
from service.integrations.adapters import adapter_of
from service.integrations.again import tell_again
from service.integrations.verbs import choose
from service.operations.chores import end_turn, take_turn
from service.registries import Registry
from service.settings import Settings
from spinal.errors import DatabaseUnavailable, SpinalError

log = structlog.get_logger(__name__)
POLL_S = 240.0
"""So long one poll may take."""
LEASE_S = POLL_S + 60.0
AT_ONCE = 200
"""Versions in one transaction."""
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
    """Ask one registry for all that its rules may choose. What it meets is noted, and told to whoever lists it."""
    rules = [rule.name for rule in registry.rules]
    try:
        found = _look(ledger, settings, name, registry)
    except DatabaseUnavailable:
        raise
    except SpinalError as error:
        with ledger.begin() as session:
            store.note_poll(session, name, registry.tenant, rules, error.to_problem())
        log.warning("poll of a registry failed", registry=name, code=error.code, detail=error.detail)
        return 0
    with ledger.begin() as session:
        store.note_poll(session, name, registry.tenant, rules, None)
    tell_again(ledger, settings, name, registry)
    if found:
        log.info("found what a registry had not told", registry=name, versions=found)
    return found


def _look(ledger: Ledger, settings: Settings, name: str, registry: Registry) -> int:
    look = adapter_of(registry.kind).look
    assert look is not None, registry.kind
    with ledger.read() as session:
        known, before = store.known_versions(session, name), store.looked_through(session, name)
    # What was there before a rule was first looked for is the past, unless the operator wants it, too.
    past_of = frozenset() if registry.backfill else frozenset(set(registry.by_name) - before)
    new = [
        sign
        for sign in look(registry, settings.reach_of(registry.tenant), time.monotonic() + POLL_S)
        if any(
            sign.is_chosen_by(rule) and (sign.model, sign.version, rule.name) not in known for rule in registry.rules
        )
    ]
    found = 0
    for start in range(0, len(new), AT_ONCE):
        with ledger.begin() as session:
            chosen = choose(
                session, name, registry, new[start : start + AT_ONCE], FOUND, past_of=past_of, known=frozenset(known)
            )
        found += sum(each.fresh and each.rule not in past_of for each in chosen)
    return found
