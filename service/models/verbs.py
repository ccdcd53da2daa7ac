"""Names for checkpoints that can be audited."""

from service.database.unit_of_work import Ledger, Reads
from service.models.store import Model, find_model, insert_model
from service.settings import Settings
from spinal.checkpoints.bounded import Inspectors
from spinal.checkpoints.sources import reference_forms
from spinal.errors import ModelNameTaken, ModelNotFound, RegisteredModelNotFound


def reference_of(ledger: Ledger, tenant: str, named: str) -> str:
    """The reference that a caller names: itself, or that of a registered model by name or id; raises ModelNotFound."""
    if ":" in named:
        return named
    with ledger.read() as session:
        known = find_model(session, tenant, named)
    if known is None:
        raise ModelNotFound(
            f"no registered model named {named!r}",
            hint=f"register it with POST /v1/models, or give {reference_forms()}",
        )
    return known.reference


def register_model(
    ledger: Ledger,
    settings: Settings,
    inspectors: Inspectors,
    *,
    tenant: str,
    name: str,
    reference: str,
    description: str | None,
    labels: dict[str, str],
) -> Model:
    """Give a reference a name, after the same checks that an audit makes; raises ModelNameTaken."""
    inspectors.survey({"model": reference}, settings.reach_of(tenant))
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
