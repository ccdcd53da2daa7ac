"""From what a caller names to a checkpoint that can be audited."""

from service.database.unit_of_work import Ledger, Reads
from service.models.store import Model, find_model, insert_model
from service.settings import Settings
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.sources import reference_forms
from spinal.errors import ModelNameTaken, ModelNotFound, RegisteredModelNotFound


def resolve_model(ledger: Ledger, settings: Settings, tenant: str, named: str) -> Checkpoint:
    """The inspected checkpoint behind a reference, or behind the name or id of a registered model; raises the
    errors of :mod:`spinal.checkpoints`."""
    reference = named
    if ":" not in named:
        with ledger.read() as session:
            known = find_model(session, tenant, named)
        if known is None:
            raise ModelNotFound(
                f"no registered model named {named!r}",
                hint=f"register it with POST /v1/models, or give {reference_forms()}",
            )
        reference = known.reference
    checkpoint = resolve_reference(reference, roots=settings.roots_of(tenant))
    inspect(checkpoint)
    return checkpoint


def register_model(
    ledger: Ledger,
    settings: Settings,
    *,
    tenant: str,
    name: str,
    reference: str,
    description: str | None,
    labels: dict[str, str],
) -> Model:
    """Give a reference a name, after the same checks that an audit makes; raises ModelNameTaken."""
    inspect(resolve_reference(reference, roots=settings.roots_of(tenant)))
    with ledger.begin() as session:
        made = insert_model(session, tenant, name, reference=reference, description=description, labels=labels)
        if made is None:
            raise ModelNameTaken(f"a model named {name!r} exists", hint="choose another name; names are never moved")
    return read_model(ledger, tenant, name)


def read_model(ledger: Reads, tenant: str, name: str) -> Model:
    """A registered model by name or id; raises RegisteredModelNotFound."""
    with ledger.read() as session:
        found = find_model(session, tenant, name)
    if found is None:
        raise RegisteredModelNotFound(f"no registered model {name!r}", hint="list them with GET /v1/models")
    return found
