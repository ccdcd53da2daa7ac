"""which installation a store of captures belongs to; how often lost captures were measured again"""

import re
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

REMEMBERED = "installation "
"""Begins the comment on ``traces`` that holds the identity after a way back: stores are marked with it, and the release
before has no table for it."""


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("one", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("id", sa.UUID(), nullable=False),
        sa.CheckConstraint("one", name=op.f("ck_installation_one")),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_installation")),
    )
    op.execute(
        sa.text("INSERT INTO installation (id) VALUES (CAST(:id AS uuid))").bindparams(
            id=_remembered() or str(uuid.uuid4())
        )
    )
    op.execute("COMMENT ON TABLE traces IS NULL")
    op.execute(
        "CREATE TRIGGER installation_immutable BEFORE UPDATE OR DELETE ON installation FOR EACH ROW "
        "EXECUTE FUNCTION spinal_refuse()"
    )
    op.add_column("traces", sa.Column("measured_again", sa.Integer(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    own = uuid.UUID(str(op.get_bind().execute(sa.text("SELECT id FROM installation")).scalar_one()))
    op.execute(f"COMMENT ON TABLE traces IS '{REMEMBERED}{own}'")
    op.drop_column("traces", "measured_again")
    op.drop_table("installation")


def _remembered() -> str | None:
    said = op.get_bind().execute(sa.text("SELECT obj_description('traces'::regclass, 'pg_class')")).scalar()
    found = re.fullmatch(f"{REMEMBERED}([0-9a-f-]{{36}})", said or "")
    return found[1] if found else None
