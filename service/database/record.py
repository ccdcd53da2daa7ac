"""What all rows of the ledger share."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Double, MetaData, Text, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PgUUID
from sqlalchemy.orm import DeclarativeBase

NOW = text("now()")
EMPTY = text("'{}'::jsonb")
STATES = "'QUEUED','RUNNING','SUCCEEDED','FAILED','CANCELLED'"
NAME = "^[a-z][a-z_]{0,31}$"
"""Of kinds and roles: which there are is said by the code (``service/runs/kinds.py``), not by the schema."""
FORMER_SCHEME = text("'python-json/1'")
"""Scheme of digests in rows that code from before schemes writes."""


class Record(DeclarativeBase):
    """Base of all rows."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy reads it from the class
        datetime: TIMESTAMP(timezone=True),
        str: Text,
        UUID: PgUUID(as_uuid=True),
        float: Double,
        dict[str, Any]: JSONB(none_as_null=True),
        list[Any]: JSONB(none_as_null=True),
    }
