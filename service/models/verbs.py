"""From what a caller names to a checkpoint that can be audited."""

from service.database.ids import new_id
from service.database.tables import ModelRecord
from service.database.unit_of_work import Ledger, Reads
from service.models.store import find_model, insert_model
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
) -> ModelRecord:
    """Give a reference a name, after the same checks that an audit makes; raises ModelNameTaken."""
    inspect(resolve_reference(reference, roots=settings.roots_of(tenant)))
    record = ModelRecord(
        id=new_id(), tenant=tenant, name=name, reference=reference, description=description, labels=labels
    )
    with ledger.begin() as session:
        if not insert_model(session, record):
            raise ModelNameTaken(f"a model named {name!r} exists", hint="choose another name; names are never moved")
    return read_model(ledger, tenant, name)


def read_model(ledger: Reads, tenant: str, name: str) -> ModelRecord:
    """A registered model by name or id; raises RegisteredModelNotFound."""
    with ledger.read() as session:
        found = find_model(session, tenant, name)
    if found is None:
        raise RegisteredModelNotFound(f"no registered model {name!r}", hint="list them with GET /v1/models")
    return found
