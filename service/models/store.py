"""Registered models: names for references, per tenant."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.database.tables import ModelRecord


def insert_model(session: Session, model: ModelRecord) -> bool:
    """Insert; False when the tenant already has a model of that name."""
    statement = (
        insert(ModelRecord)
        .values(
            id=model.id,
            tenant=model.tenant,
            name=model.name,
            reference=model.reference,
            description=model.description,
            labels=model.labels,
        )
        .on_conflict_do_nothing(constraint="uq_models_tenant_name")
        .returning(ModelRecord.id)
    )
    return session.execute(statement).scalar() is not None


def find_model(session: Session, tenant: str, name: str) -> ModelRecord | None:
    """The tenant's model by name or id."""
    query = select(ModelRecord).where(ModelRecord.tenant == tenant)
    by_name = session.scalars(query.where(ModelRecord.name == name)).one_or_none()
    if by_name is not None:
        return by_name
    try:
        model_id = UUID(name)
    except ValueError:
        return None
    return session.scalars(query.where(ModelRecord.id == model_id)).one_or_none()


def list_models(session: Session, tenant: str, *, after: str | None, limit: int) -> list[ModelRecord]:
    """By name; ``after`` is the last name seen."""
    query = select(ModelRecord).where(ModelRecord.tenant == tenant)
    if after is not None:
        query = query.where(ModelRecord.name > after)
    return list(session.scalars(query.order_by(ModelRecord.name).limit(limit)))
