"""Makes the audits of versions that are due.

In the API's own processes: what a reference means is found by sources, and what lies there by bounded children, which
the dispatcher has not. The audit and the note that it was made are one transaction, so that nobody who is killed
leaves the one without the other, and of several who are at the same version one makes it.
"""

from dataclasses import dataclass

import structlog
from sqlalchemy.orm import Session

from service.audits.resolve import AuditRequest, resolve_request
from service.audits.verbs import record_of, write_audit
from service.database.unit_of_work import Ledger, whole_or_again
from service.deliveries.events import add_event
from service.deliveries.outbox import add_delivery
from service.deliveries.targets import Place
from service.integrations import store
from service.integrations.store import Due
from service.registries import Registry, Rule
from service.settings import Settings
from spinal.checkpoints.bounded import Inspectors
from spinal.errors import (
    ModelAccessRefused,
    ModelChanged,
    ModelNotFound,
    PairMismatch,
    PolicyNotFound,
    SpinalError,
    Unauthorized,
    UsageError,
    WeightsMissing,
)

log = structlog.get_logger(__name__)
LEASE_S = 120.0
"""Whoever looks at a version is left alone with it for so long, and for as long as looking at files may take. Behind
that somebody else looks, too, and whoever comes first makes the audit."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 900.0
MAY_COME = (ModelNotFound, WeightsMissing, ModelChanged, ModelAccessRefused, PolicyNotFound)
"""What may not be there yet when a registry tells of it: it is looked for during ``missing_model_s``, from when it was
first not there. What went before, such as a registry that did not answer, takes nothing of that time."""
PASSING = (Unauthorized, UsageError)
"""The tenant is being deleted; the operator's own files are not in order."""
OF_REFUSAL = "version.refused"
LABELS = ("registry", "name", "version")


@dataclass
class Turns:
    """Whose turn it was last, for one process: the next is another tenant's, where one has versions that wait."""

    last: str = ""


def ask_for_next(ledger: Ledger, settings: Settings, inspectors: Inspectors, turns: Turns) -> bool:
    """Make the audit of the version that is next, or note why there is none; False where none is due."""
    known = settings.registries.by_name
    rules = [(name, registry.tenant, rule.name) for name, registry in known.items() for rule in registry.rules]
    with ledger.begin() as session:
        due = store.take_due(session, rules, lease_s=LEASE_S + settings.inspect_seconds, after=turns.last)
    if due is None:
        return False
    # Ahead of all that may go wrong with it.
    turns.last = due.tenant
    registry = known[due.key.registry]
    try:
        _ask(ledger, settings, inspectors, registry, due)
    except SpinalError as error:
        _note(ledger, settings, registry, due, error)
    return True


def _ask(ledger: Ledger, settings: Settings, inspectors: Inspectors, registry: Registry, due: Due) -> None:
    """Raises what submitting the same audit raises."""
    request = _request(settings, registry, due)
    if request.models["reference"] != due.reference:
        with ledger.begin() as session:
            store.keep_reference(session, due.id, request.models["reference"])
    resolved = resolve_request(ledger, settings, inspectors, registry.tenant, request)
    audit = record_of(registry.tenant, request, resolved, None)
    with ledger.begin() as session, whole_or_again():
        if not store.hold_waiting(session, due.id):
            return
        write_audit(session, settings, audit, resolved, request.priority, None)
        store.set_audit(session, due.id, audit.id)
    log.info("audit of a registry's version", audit_id=str(audit.id), **vars(due.key))


def _request(settings: Settings, registry: Registry, due: Due) -> AuditRequest:
    rule = registry.by_name[due.key.rule]
    candidate = registry.candidate_of(rule, due.key.model, due.key.version)
    models = {"candidate": candidate, "reference": due.reference or _pinned(settings, registry, rule, due)}
    if candidate == models["reference"]:
        raise PairMismatch(
            f"the reference {rule.reference} of rule {rule.name!r} is this version itself",
            hint="nothing can be said of a model against itself; the version before was judged when it came",
        )
    labels = {**dict(zip(LABELS, (due.key.registry, due.key.model, due.key.version), strict=True)), **rule.labels}
    body = {
        **models,
        "prompt_set": rule.prompt_set,
        "profile": rule.profile.model_dump(mode="json", exclude_unset=True),
        "labels": labels,
        "priority": rule.priority,
    } | ({} if rule.policy is None else {"policy": rule.policy})
    return AuditRequest(
        models=models,
        prompt_set=rule.prompt_set,
        profile=rule.profile,
        policy=rule.policy,
        labels=labels,
        priority=rule.priority,
        body=body,
        spelled_out=body,
    )


def _pinned(settings: Settings, registry: Registry, rule: Rule, due: Due) -> str:
    """What the rule's reference means now, where it names another version of the same model by something that moves:
    when this is tried again, it is still the same. Raises as pinning does."""
    reference = registry.reference_of(rule, due.key.model, due.key.version)
    return settings.reach_of(registry.tenant).pin(reference).name if rule.reference.startswith("@") else reference


def _note(ledger: Ledger, settings: Settings, registry: Registry, due: Due, error: SpinalError) -> None:
    """Refused for good, or to be tried again: uncharged, for as long as it takes."""
    problem = error.to_problem()
    if _is_final(settings, due, error):
        with ledger.begin() as session:
            if not store.hold_waiting(session, due.id):
                return
            store.refuse(session, due.id, problem)
            if registry.write_back:
                _tell_refusal(session, settings, registry, due)
        log.warning("refused a registry's version", code=error.code, detail=error.detail, **vars(due.key))
        return
    missing = isinstance(error, MAY_COME)
    # From the first miss on it is looked for in short steps again, however often its registry had not answered.
    tries = 1 if missing and due.missing_s is None else due.tries
    pause = min(FIRST_PAUSE_S * 2.0 ** min(tries - 1, 20), LONGEST_PAUSE_S)
    asked = getattr(error, "retry_after_s", None)
    with ledger.begin() as session:
        store.put_off(session, due.id, problem, pause_s=max(pause, asked or 0.0), tries=tries, missing=missing)
    log.info("a registry's version waits", code=error.code, detail=error.detail, pause_s=pause, **vars(due.key))


def _is_final(settings: Settings, due: Due, error: SpinalError) -> bool:
    if isinstance(error, MAY_COME):
        return (due.missing_s or 0.0) >= settings.missing_model_s
    return 400 <= error.status < 500 and error.status != 429 and not isinstance(error, PASSING)


def _tell_refusal(session: Session, settings: Settings, registry: Registry, due: Due) -> None:
    """In the transaction of the refusal, of which only this registry is told."""
    event = add_event(session, registry.tenant, OF_REFUSAL, "registry_version", due.id, {"rule": due.key.rule})
    add_delivery(session, settings, event, registry.kind, Place(place=store.place_of(due.key)))
