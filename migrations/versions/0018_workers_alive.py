"""which workers are there, and indexes by which counting what waits and what has ended reads no more than it counts"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Workers of the release before write nothing here: what has no row may be alive all the same.
    op.create_table(
        "workers",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queues", JSONB(none_as_null=True), nullable=False),
        sa.Column("children", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("knows", JSONB(none_as_null=True), nullable=False),
        sa.Column("started_at", TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("children >= 0", name=op.f("ck_workers_children")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_index(
        "ix_runs_ended",
        "runs",
        ["finished_at", "queue", "state"],
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_waiting",
        "runs",
        ["queue", "created_at", "not_before"],
        postgresql_where=sa.text("state = 'QUEUED' AND NOT waits AND NOT cancel_requested"),
    )
    op.create_index("ix_run_attempts_ended", "run_attempts", ["ended_at"])
    op.create_index(
        "ix_run_attempts_refused",
        "run_attempts",
        ["refused_writes", "refused_beats"],
        postgresql_where=sa.text("refused_writes > 0 OR refused_beats > 0"),
    )


def downgrade() -> None:
    op.drop_index("ix_run_attempts_refused", "run_attempts")
    op.drop_index("ix_run_attempts_ended", "run_attempts")
    op.drop_index("ix_runs_waiting", "runs")
    op.drop_index("ix_runs_ended", "runs")
    op.drop_table("workers")
