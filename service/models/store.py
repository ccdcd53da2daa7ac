"""Registered models: names for references, per tenant; their versions and aliases.

Whatever changes a model holds its row first (:func:`hold_model`): versions and aliases of one model change one after
another.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.database.ids import new_id
from service.models.names import Named

FIRST = "1"
"""What a first version is called where nobody says."""


@dataclass(frozen=True)
class Model:
    """A registered model, as its newest version is. Its members are those of :data:`SHOWN`, by the same names."""

    id: UUID
    name: str
    version: str
    reference: str
    aliases: dict[str, str]
    """The version that each points at."""
    description: str | None
    labels: dict[str, str]
    created_at: datetime


@dataclass(frozen=True)
class Version:
    """One version of a model. Its members are those of :data:`VERSION_SHOWN`, by the same names."""

    version: str
    number: int
    """Higher than that of every version that was registered before."""
    reference: str
    labels: dict[str, str]
    aliases: list[str]
    """Those that point at it, by name."""
    created_at: datetime


SHOWN = """models.id, models.name, newest.version, newest.reference,
  (SELECT COALESCE(jsonb_object_agg(a.alias, a.version), '{}') FROM model_aliases a WHERE a.model_id = models.id)
    AS aliases, models.description, models.labels, models.created_at"""
NEWEST = """models CROSS JOIN LATERAL (SELECT v.version, v.reference FROM model_versions v
  WHERE v.model_id = models.id ORDER BY v.number DESC LIMIT 1) AS newest"""
VERSION_SHOWN = """v.version, v.number, v.reference, v.labels, ARRAY(
  SELECT a.alias FROM model_aliases a WHERE a.model_id = v.model_id AND a.version = v.version ORDER BY a.alias)
    AS aliases, v.created_at"""
BY_NAME = """models.tenant = :tenant AND (models.name = :name OR models.id = CAST(:id AS uuid))
  ORDER BY models.name = :name DESC LIMIT 1"""
"""SQL: the tenant's model by name or id; a name that looks like an id is a name first."""


def insert_model(
    session: Session,
    tenant: str,
    name: str,
    *,
    reference: str,
    version: str = FIRST,
    description: str | None,
    labels: dict[str, str],
) -> UUID | None:
    """Insert a model with its first version, and return the id; None when the tenant already has a model of that
    name."""
    # In one statement: a trigger looks for the version when it ends.
    found: UUID | None = session.execute(
        text("""WITH made AS (
                  INSERT INTO models (id, tenant, name, reference, description, labels)
                  VALUES (:id, :tenant, :name, :reference, :description, CAST(:labels AS jsonb))
                  ON CONFLICT ON CONSTRAINT uq_models_tenant_name DO NOTHING RETURNING id, reference)
                INSERT INTO model_versions (model_id, version, number, reference)
                SELECT id, :version, 1, reference FROM made RETURNING model_id"""),
        {
            "id": new_id(),
            "tenant": tenant,
            "name": name,
            "reference": reference,
            "version": version,
            "description": description,
            "labels": json.dumps(labels),
        },
    ).scalar()
    return found


def find_model(session: Session, tenant: str, name: str) -> Model | None:
    """The tenant's model by name or id; a name that looks like an id is a name first."""
    row = session.execute(
        text(f"SELECT {SHOWN} FROM {NEWEST} WHERE {BY_NAME}"),  # noqa: S608  constants of this module
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
        text(f"""SELECT {SHOWN} FROM {NEWEST} WHERE models.tenant = :tenant AND models.name > :after
                ORDER BY models.name LIMIT :limit"""),  # noqa: S608  constants of this module
        # Every name comes behind the empty one.
        {"tenant": tenant, "after": after or "", "limit": limit},
    )
    return [Model(*row) for row in rows]


def hold_model(session: Session, tenant: str, name: str) -> UUID | None:
    """The id of a model by name or id, whose versions, aliases and members nobody else changes until this transaction
    has ended; None where there is none."""
    held: UUID | None = session.execute(
        text(f"SELECT models.id FROM models WHERE {BY_NAME} FOR UPDATE"),  # noqa: S608  a constant of this module
        {"tenant": tenant, "name": name, "id": _as_id(name)},
    ).scalar()
    return held


def update_model(session: Session, model: UUID, changes: dict[str, Any]) -> None:
    """Give a held model another description, other labels, or both: whatever is among ``changes``."""
    session.execute(
        text("""UPDATE models SET
                  description = CASE WHEN :describes THEN CAST(:description AS text) ELSE description END,
                  labels = CASE WHEN :relabels THEN CAST(:labels AS jsonb) ELSE labels END
                WHERE id = :model"""),
        {
            "model": model,
            "describes": "description" in changes,
            "description": changes.get("description"),
            "relabels": "labels" in changes,
            "labels": json.dumps(changes.get("labels")),
        },
    )


def delete_model(session: Session, model: UUID) -> None:
    """Delete a held model with its versions and aliases."""
    which = {"model": model}
    session.execute(text("DELETE FROM model_aliases WHERE model_id = :model"), which)
    session.execute(text("DELETE FROM model_versions WHERE model_id = :model"), which)
    session.execute(text("DELETE FROM models WHERE id = :model"), which)


# versions


@dataclass(frozen=True)
class Meaning:
    """What a caller's words stand for."""

    name: str
    """The model's, also where its id was given."""
    version: Version | None
    """None where the model has no such version, or no such alias."""


def find_meaning(session: Session, tenant: str, named: Named) -> Meaning | None:
    """The version that is named, at one moment; None where the tenant has no such model."""
    row = session.execute(
        text(f"""SELECT m.name, {VERSION_SHOWN} FROM (SELECT models.id, models.name FROM models WHERE {BY_NAME}) AS m
                 LEFT JOIN model_versions v ON v.model_id = m.id AND v.version = CASE
                   WHEN CAST(:version AS text) IS NOT NULL THEN CAST(:version AS text)
                   WHEN CAST(:alias AS text) IS NOT NULL THEN (
                     SELECT a.version FROM model_aliases a WHERE a.model_id = m.id AND a.alias = :alias)
                   ELSE (SELECT n.version FROM model_versions n WHERE n.model_id = m.id
                         ORDER BY n.number DESC LIMIT 1) END"""),  # noqa: S608  constants of this module
        {
            "tenant": tenant,
            "name": named.name,
            "id": _as_id(named.name),
            "version": named.version,
            "alias": named.alias,
        },
    ).one_or_none()
    if row is None:
        return None
    name, *members = row
    return Meaning(name, None if row.version is None else Version(*members))


def list_versions(session: Session, model: UUID, *, before: int | None, limit: int) -> list[Version]:
    """Newest first; ``before`` is the number of the last one seen."""
    rows = session.execute(
        text(f"""SELECT {VERSION_SHOWN} FROM model_versions v
                 WHERE v.model_id = :model AND (CAST(:before AS integer) IS NULL OR v.number < :before)
                 ORDER BY v.number DESC LIMIT :limit"""),  # noqa: S608  a constant of this module
        {"model": model, "before": before, "limit": limit},
    )
    return [Version(*row) for row in rows]


def find_version(session: Session, model: UUID, version: str) -> Version | None:
    """One version of a model."""
    row = session.execute(
        text(f"SELECT {VERSION_SHOWN} FROM model_versions v WHERE v.model_id = :model AND v.version = :version"),  # noqa: S608  a constant of this module
        {"model": model, "version": version},
    ).one_or_none()
    return None if row is None else Version(*row)


def insert_version(session: Session, model: UUID, version: str, *, reference: str, labels: dict[str, str]) -> None:
    """A version that a held model does not have yet, as its newest."""
    session.execute(
        text("""INSERT INTO model_versions (model_id, version, number, reference, labels)
                SELECT :model, :version, COALESCE(MAX(number), 0) + 1, :reference, CAST(:labels AS jsonb)
                FROM model_versions WHERE model_id = :model"""),
        {"model": model, "version": version, "reference": reference, "labels": json.dumps(labels)},
    )
    _show_newest(session, model)


def delete_version(session: Session, model: UUID, version: str) -> bool:
    """Delete a version of a held model at which no alias points; False where it is the only one."""
    gone = session.execute(
        text("""DELETE FROM model_versions WHERE model_id = :model AND version = :version AND EXISTS (
                  SELECT 1 FROM model_versions o WHERE o.model_id = :model AND o.version <> :version)
                RETURNING version"""),
        {"model": model, "version": version},
    ).scalar()
    _show_newest(session, model)
    return gone is not None


def _show_newest(session: Session, model: UUID) -> None:
    """Let the model's row say what its newest version is: code from before reads it there."""
    session.execute(
        text("""UPDATE models SET reference = (SELECT v.reference FROM model_versions v WHERE v.model_id = models.id
                  ORDER BY v.number DESC LIMIT 1) WHERE id = :model"""),
        {"model": model},
    )


# aliases


@dataclass(frozen=True)
class Alias:
    """A name for one version of a model."""

    alias: str
    version: str
    moved_at: datetime


def set_alias(session: Session, model: UUID, alias: str, version: str) -> Alias:
    """Let an alias of a held model point at one of its versions; where it did already it is as it was."""
    row = session.execute(
        text("""INSERT INTO model_aliases AS a (model_id, alias, version) VALUES (:model, :alias, :version)
                ON CONFLICT (model_id, alias) DO UPDATE SET version = EXCLUDED.version,
                  moved_at = CASE WHEN a.version = EXCLUDED.version THEN a.moved_at ELSE EXCLUDED.moved_at END
                RETURNING alias, version, moved_at"""),
        {"model": model, "alias": alias, "version": version},
    ).one()
    return Alias(*row)


def delete_alias(session: Session, model: UUID, alias: str) -> bool:
    """Delete an alias of a held model; False where there is none."""
    gone = session.execute(
        text("DELETE FROM model_aliases WHERE model_id = :model AND alias = :alias RETURNING alias"),
        {"model": model, "alias": alias},
    ).scalar()
    return gone is not None


def count_other_aliases(session: Session, model: UUID, alias: str) -> int:
    """How many aliases a model has beside this one."""
    count: int = session.execute(
        text("SELECT count(*) FROM model_aliases WHERE model_id = :model AND alias <> :alias"),
        {"model": model, "alias": alias},
    ).scalar_one()
    return count
