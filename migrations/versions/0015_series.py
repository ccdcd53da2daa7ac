"""series of checkpoints, their members, and which series an audit belongs to"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

STATUSES = "'destabilised','inconclusive','insufficient_series','watch','healthy'"


def upgrade() -> None:
    # Code from before knows none of it. It settles members all the same, as the audits that they are: that a kept
    # document is out of date shows in how many members there are and have ended, which needs no help of whoever ends
    # them.
    op.create_table(
        "series",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("spec", JSONB(none_as_null=True), nullable=False),
        sa.Column("settings", JSONB(none_as_null=True), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("labels", JSONB(none_as_null=True), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("closed_at", TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cancelled_at", TIMESTAMP(timezone=True), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("document", JSONB(none_as_null=True), nullable=True),
        sa.Column("covers_members", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("covers_settled", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("covers_closed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("body_digest", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("created_at", TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(f"status IN ({STATUSES})", name=op.f("ck_series_status")),
        sa.CheckConstraint("(status IS NULL) = (document IS NULL)", name=op.f("ck_series_status_of_document")),
        sa.CheckConstraint("cancelled_at IS NULL OR closed_at IS NOT NULL", name=op.f("ck_series_cancelled_is_closed")),
        sa.CheckConstraint("(idempotency_key IS NULL) = (body_digest IS NULL)", name=op.f("ck_series_idempotency")),
        sa.CheckConstraint("covers_settled BETWEEN 0 AND covers_members", name=op.f("ck_series_covers")),
        sa.ForeignKeyConstraint(
            ["tenant", "policy"], ["policies.tenant", "policies.digest"], name="fk_series_tenant_policies"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
    )
    op.create_index("ix_series_tenant_created", "series", ["tenant", sa.text("created_at DESC"), sa.text("id DESC")])
    op.create_index("ix_series_tenant_policy", "series", ["tenant", "policy"])
    op.create_index("ix_series_labels", "series", ["labels"], postgresql_using="gin")
    op.create_index(
        "uq_series_idempotency",
        "series",
        ["tenant", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "ix_series_unfinished",
        "series",
        ["id"],
        postgresql_where=sa.text("document IS NULL OR NOT covers_closed OR covers_settled < covers_members"),
    )
    op.create_table(
        "series_members",
        sa.Column("series_id", sa.UUID(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("audit_id", sa.UUID(), nullable=False),
        sa.Column("created_at", TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("step >= 0", name=op.f("ck_series_members_step")),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_series_members_series_id_series")),
        sa.ForeignKeyConstraint(["audit_id"], ["audits.id"], name=op.f("fk_series_members_audit_id_audits")),
        sa.PrimaryKeyConstraint("series_id", "step", name=op.f("pk_series_members")),
        sa.UniqueConstraint("audit_id", name=op.f("uq_series_members_audit_id")),
    )
    op.execute(
        "CREATE TRIGGER series_members_immutable BEFORE UPDATE ON series_members FOR EACH ROW "
        "EXECUTE FUNCTION spinal_refuse()"
    )
    op.add_column("audits", sa.Column("series", sa.UUID(), nullable=True))
    op.create_foreign_key(op.f("fk_audits_series_series"), "audits", "series", ["series"], ["id"])
    op.create_index(
        "ix_audits_series",
        "audits",
        ["series", sa.text("created_at DESC"), sa.text("id DESC")],
        postgresql_where=sa.text("series IS NOT NULL"),
    )


def downgrade() -> None:
    # Members stay what they are: audits, with their results and verdicts.
    op.drop_index("ix_audits_series", "audits")
    op.drop_column("audits", "series")
    op.drop_table("series_members")
    op.drop_table("series")
