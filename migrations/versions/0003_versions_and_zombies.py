"""specification versions, refused writes, illegal moves refused"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ILLEGAL = """
CREATE FUNCTION spinal_illegal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'illegal change of % refused', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$
"""


def upgrade() -> None:
    # Both with a default: code of the version before, still running during an upgrade, does not name them.
    op.add_column("runs", sa.Column("spec_version", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column(
        "run_attempts", sa.Column("refused_writes", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )
    op.execute(ILLEGAL)
    # Terminal rows are final since 0001; of the other moves only this one is not in the lifecycle.
    op.execute(
        "CREATE TRIGGER runs_legal BEFORE UPDATE ON runs FOR EACH ROW "
        "WHEN ((OLD.state = 'QUEUED' AND NEW.state = 'SUCCEEDED') OR NEW.attempt < OLD.attempt) "
        "EXECUTE FUNCTION spinal_illegal()"
    )
    op.execute(
        "CREATE TRIGGER run_attempts_ended BEFORE UPDATE ON run_attempts FOR EACH ROW "
        "WHEN (OLD.outcome IS NOT NULL AND (NEW.outcome, NEW.error, NEW.ended_at, NEW.worker) IS DISTINCT FROM "
        "(OLD.outcome, OLD.error, OLD.ended_at, OLD.worker)) EXECUTE FUNCTION spinal_illegal()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER run_attempts_ended ON run_attempts")
    op.execute("DROP TRIGGER runs_legal ON runs")
    op.execute("DROP FUNCTION spinal_illegal()")
    op.drop_column("run_attempts", "refused_writes")
    op.drop_column("runs", "spec_version")
