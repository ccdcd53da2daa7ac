"""named controls"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROLE = "ck_audit_runs_role"


def upgrade() -> None:
    op.add_column("audits", sa.Column("control", sa.Text(), nullable=True))
    op.add_column("audits", sa.Column("control_trace", sa.Text(), nullable=True))
    op.create_foreign_key(op.f("fk_audits_control_trace_traces"), "audits", "traces", ["control_trace"], ["digest"])
    op.drop_constraint(op.f(ROLE), "audit_runs", type_="check")
    op.create_check_constraint(op.f(ROLE), "audit_runs", "role IN ('candidate','reference','control','compare')")


def downgrade() -> None:
    # The older code knows no such role; the runs themselves and the comparisons that used them stay.
    op.execute("DELETE FROM audit_runs WHERE role = 'control'")
    op.drop_constraint(op.f(ROLE), "audit_runs", type_="check")
    op.create_check_constraint(op.f(ROLE), "audit_runs", "role IN ('candidate','reference','compare')")
    op.drop_constraint(op.f("fk_audits_control_trace_traces"), "audits", type_="foreignkey")
    op.drop_column("audits", "control_trace")
    op.drop_column("audits", "control")
