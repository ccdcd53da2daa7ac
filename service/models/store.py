"""Registered models: names for references, per tenant."""

import json
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.database.ids import new_id


@dataclass(frozen=True)
class Model:
    """A registered model. Its members are columns of ``models``, by the same names."""

    id: UUID
    name: str
    reference: str
    description: str | None
    labels: dict[str, str]
    created_at: datetime


SHOWN = ", ".join(member.name for member in fields(Model))
"""SQL: the columns of a model, in their order."""


def insert_model(
    session: Session, tenant: str, name: str, *, reference: str, description: str | None, labels: dict[str, str]
) -> UUID | None:
    """Insert, and return the id; None when the tenant already has a model of that name."""
    found: UUID | None = session.execute(
        text("""INSERT INTO models (id, tenant, name, reference, description, labels)
                VALUES (:id, :tenant, :name, :reference, :description, CAST(:labels AS jsonb))
                ON CONFLICT ON CONSTRAINT uq_models_tenant_name DO NOTHING RETURNING id"""),
        {
            "id": new_id(),
            "tenant": tenant,
            "name": name,
            "reference": reference,
            "description": description,
            "labels": json.dumps(labels),
        },
    ).scalar()
    return found


def find_model(session: Session, tenant: str, name: str) -> Model | None:
    """The tenant's model by name or id; a name that looks like an id is a name first."""
    row = session.execute(
        text(f"""SELECT {SHOWN} FROM models
                WHERE tenant = :tenant AND (name = :name OR id = CAST(:id AS uuid))
                ORDER BY name = :name DESC LIMIT 1"""),  # noqa: S608  a constant of this module
        {"tenant": tenant, "name": name, "id": _as_id(name)},
    ).one_or_none()
    return None if row is None else Model(*row)


def _as_id(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


def list_models(session: Session, tenant: str, *, after: str | None, limit: int) -> list[Model]:
    """By name; ``after`` is the last name seen."""
    rows = session.execute(
        text(f"""SELECT {SHOWN} FROM models WHERE tenant = :tenant AND name > :after
                ORDER BY name LIMIT :limit"""),  # noqa: S608  a constant of this module
        # Every name comes behind the empty one.
        {"tenant": tenant, "after": after or "", "limit": limit},
    )
    return [Model(*row) for row in rows]
