"""What callers do with registered models: give names, versions and aliases, read them, take them back.

Nothing that was accepted needs a name any longer: audits and series keep what each meant. So names can go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger, Reads
from service.models import store
from service.models.meanings import pin
from service.models.store import Alias, Model, Version
from service.settings import Settings
from spinal.checkpoints.bounded import Inspectors
from spinal.errors import (
    ModelAliasesFull,
    ModelAliasNotFound,
    ModelNameTaken,
    ModelVersionInUse,
    ModelVersionNotFound,
    ModelVersionTaken,
    RegisteredModelNotFound,
)

MOST_ALIASES = 100
"""Of one model: each list shows all of them."""


def register_model(
    ledger: Ledger,
    settings: Settings,
    inspectors: Inspectors,
    *,
    tenant: str,
    name: str,
    reference: str,
    version: str,
    aliases: Sequence[str],
    description: str | None,
    labels: dict[str, str],
) -> Model:
    """Give a reference a name and a first version, after the same checks that an audit makes; raises ModelNameTaken and
    the errors of these checks."""
    pinned = _pinned(settings, inspectors, tenant, reference)
    with ledger.begin() as session:
        model = store.insert_model(
            session, tenant, name, reference=pinned, version=version, description=description, labels=labels
        )
        if model is None:
            raise ModelNameTaken(
                f"a model named {name!r} exists",
                hint=f"POST /v1/models/{name}/versions to add a version of it, or choose another name",
            )
        for alias in aliases:
            store.set_alias(session, model, alias, version)
        return _model(session, tenant, str(model))


def _pinned(settings: Settings, inspectors: Inspectors, tenant: str, reference: str) -> str:
    found = inspectors.survey({"model": reference}, settings.reach_of(tenant))
    return pin(reference, found["model"].source)


def read_model(ledger: Reads, tenant: str, name: str) -> Model:
    """A registered model by name or id; raises RegisteredModelNotFound."""
    with ledger.read() as session:
        return _model(session, tenant, name)


def _model(session: Session, tenant: str, name: str) -> Model:
    found = store.find_model(session, tenant, name)
    if found is None:
        raise _no_model(name)
    return found


def _no_model(name: str) -> RegisteredModelNotFound:
    return RegisteredModelNotFound(f"no registered model {name!r}", hint="list them with GET /v1/models")


def _held(session: Session, tenant: str, name: str) -> UUID:
    """The id of a model that stays as it is until the transaction has ended; raises RegisteredModelNotFound."""
    held = store.hold_model(session, tenant, name)
    if held is None:
        raise _no_model(name)
    return held


def update_model(ledger: Ledger, tenant: str, name: str, changes: dict[str, Any]) -> Model:
    """Another description, other labels, or both; raises RegisteredModelNotFound."""
    with ledger.begin() as session:
        model = _held(session, tenant, name)
        store.update_model(session, model, changes)
        return _model(session, tenant, str(model))


def delete_model(ledger: Ledger, tenant: str, name: str) -> None:
    """Take back a name with all its versions and aliases; raises RegisteredModelNotFound."""
    with ledger.begin() as session:
        store.delete_model(session, _held(session, tenant, name))


# versions


@dataclass(frozen=True)
class Kept:
    """A version that was asked to be registered."""

    model: Model
    version: Version
    fresh: bool
    """False where the model had it already."""


def register_version(
    ledger: Ledger,
    settings: Settings,
    inspectors: Inspectors,
    *,
    tenant: str,
    name: str,
    reference: str,
    version: str,
    labels: dict[str, str],
) -> Kept:
    """Give a model a version, after the same checks that an audit makes; the same one again changes nothing. Raises
    RegisteredModelNotFound, ModelVersionTaken and the errors of these checks."""
    read_model(ledger, tenant, name)
    pinned = _pinned(settings, inspectors, tenant, reference)
    with ledger.begin() as session:
        model = _held(session, tenant, name)
        known = store.find_version(session, model, version)
        if known is None:
            store.insert_version(session, model, version, reference=pinned, labels=labels)
        elif (known.reference, known.labels) != (pinned, labels):
            raise ModelVersionTaken(
                f"version {version} of {name} is {known.reference}"
                + (", with other labels" if known.reference == pinned else f", and was to be {pinned}"),
                hint="register it as another version: what a version means never changes",
            )
        return Kept(_model(session, tenant, str(model)), _version(session, model, name, version), known is None)


def _version(session: Session, model: UUID, name: str, version: str) -> Version:
    found = store.find_version(session, model, version)
    if found is None:
        raise ModelVersionNotFound(
            f"the registered model {name!r} has no version {version!r}",
            hint=f"list them with GET /v1/models/{name}/versions",
        )
    return found


def read_version(ledger: Reads, tenant: str, name: str, version: str) -> tuple[Model, Version]:
    """One version of a model; raises RegisteredModelNotFound, ModelVersionNotFound."""
    with ledger.read() as session:
        model = _model(session, tenant, name)
        return model, _version(session, model.id, name, version)


def list_versions(
    ledger: Reads, tenant: str, name: str, *, before: int | None, limit: int
) -> tuple[Model, list[Version]]:
    """Versions of a model, newest first, behind that with the number ``before``; raises RegisteredModelNotFound."""
    with ledger.read() as session:
        model = _model(session, tenant, name)
        return model, store.list_versions(session, model.id, before=before, limit=limit)


def delete_version(ledger: Ledger, tenant: str, name: str, version: str) -> None:
    """Take back a version; raises RegisteredModelNotFound, ModelVersionNotFound, and ModelVersionInUse where an alias
    points at it, or the model has no other."""
    with ledger.begin() as session:
        model = _held(session, tenant, name)
        found = _version(session, model, name, version)
        if found.aliases:
            raise ModelVersionInUse(
                f"{', '.join(found.aliases)} of {name} points at version {version}",
                hint=f"PUT the alias to another version, or DELETE /v1/models/{name}/aliases/{found.aliases[0]}",
            )
        if not store.delete_version(session, model, version):
            raise ModelVersionInUse(
                f"{name} has no version but {version}",
                hint=f"register another one first, or DELETE /v1/models/{name}",
            )


# aliases


def move_alias(ledger: Ledger, tenant: str, name: str, alias: str, version: str) -> tuple[Model, Alias, Version]:
    """Let an alias point at a version, whether it is new or pointed elsewhere. Raises RegisteredModelNotFound,
    ModelVersionNotFound, ModelAliasesFull."""
    with ledger.begin() as session:
        model = _held(session, tenant, name)
        _version(session, model, name, version)
        if store.count_other_aliases(session, model, alias) >= MOST_ALIASES:
            raise ModelAliasesFull(
                f"{name} has {MOST_ALIASES} aliases, which is the most", hint="delete one that nobody uses"
            )
        moved = store.set_alias(session, model, alias, version)
        return _model(session, tenant, str(model)), moved, _version(session, model, name, version)


def delete_alias(ledger: Ledger, tenant: str, name: str, alias: str) -> None:
    """Take back an alias; the version at which it points stays. Raises RegisteredModelNotFound, ModelAliasNotFound."""
    with ledger.begin() as session:
        if not store.delete_alias(session, _held(session, tenant, name), alias):
            raise ModelAliasNotFound(
                f"the registered model {name!r} has no alias {alias!r}", hint=f"see GET /v1/models/{name}"
            )
