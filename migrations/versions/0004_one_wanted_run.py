"""one wanted run per specification, refused heartbeats, indexes"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IN_FLIGHT = "state IN ('QUEUED','RUNNING') AND NOT cancel_requested"
WANTED = "state IN ('QUEUED','RUNNING','SUCCEEDED') AND NOT cancel_requested"
TRACES = ("candidate_trace", "reference_trace", "control_trace", "comparison")


def upgrade() -> None:
    # Nobody moves a run between the repairs and the index that relies on them. The strongest lock at once, and in the
    # order in which the service comes to these tables: asking for more later would be a circle.
    op.execute("LOCK TABLE runs, run_attempts, audits IN ACCESS EXCLUSIVE MODE")
    # Runs put back by their worker just after they had been given up: never due, never claimed, never ended.
    op.execute("UPDATE runs SET state = 'CANCELLED', finished_at = now() WHERE state = 'QUEUED' AND cancel_requested")
    # Of several runs that did the same, later requests keep to one: the last in flight, else the last that succeeded.
    op.execute("ALTER TABLE runs DISABLE TRIGGER runs_terminal")
    op.execute(
        f"""UPDATE runs SET cancel_requested = TRUE WHERE state = 'SUCCEEDED' AND id IN (
              SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY spec_digest
                ORDER BY state = 'SUCCEEDED', finished_at DESC, id DESC) AS place FROM runs WHERE {WANTED}) ranked
              WHERE place > 1)"""  # noqa: S608  a constant of this module
    )
    op.execute("ALTER TABLE runs ENABLE TRIGGER runs_terminal")
    op.drop_index("uq_runs_spec_in_flight", table_name="runs")
    op.create_index("uq_runs_spec_wanted", "runs", ["spec_digest"], unique=True, postgresql_where=sa.text(WANTED))
    op.drop_index("ix_runs_queued", table_name="runs")
    op.create_index(
        "ix_runs_queued",
        "runs",
        ["queue", sa.literal_column("priority DESC"), "created_at"],
        postgresql_where=sa.text("state = 'QUEUED'"),
    )
    op.create_check_constraint(
        op.f("ck_runs_running_is_held"),
        "runs",
        "state <> 'RUNNING' OR (worker IS NOT NULL AND deadline_at IS NOT NULL AND attempt > 0)",
    )
    op.create_check_constraint(op.f("ck_runs_charged"), "runs", "charged_attempts BETWEEN 0 AND attempt")
    op.create_check_constraint(op.f("ck_run_attempts_ended"), "run_attempts", "(outcome IS NULL) = (ended_at IS NULL)")
    op.add_column("run_attempts", sa.Column("refused_beats", sa.Integer(), server_default=sa.text("0"), nullable=False))
    for column in TRACES:
        op.create_index(op.f(f"ix_audits_{column}"), "audits", [column])
    op.create_index("ix_audits_open", "audits", ["id"], postgresql_where=sa.text("state IN ('QUEUED','RUNNING')"))


def downgrade() -> None:
    op.drop_index("ix_audits_open", table_name="audits")
    for column in reversed(TRACES):
        op.drop_index(op.f(f"ix_audits_{column}"), table_name="audits")
    op.drop_column("run_attempts", "refused_beats")
    op.drop_constraint(op.f("ck_run_attempts_ended"), "run_attempts", type_="check")
    for name in ("charged", "running_is_held"):
        op.drop_constraint(op.f(f"ck_runs_{name}"), "runs", type_="check")
    op.drop_index("ix_runs_queued", table_name="runs")
    op.create_index("ix_runs_queued", "runs", ["priority", "created_at"], postgresql_where=sa.text("state = 'QUEUED'"))
    op.drop_index("uq_runs_spec_wanted", table_name="runs")
    op.create_index("uq_runs_spec_in_flight", "runs", ["spec_digest"], unique=True, postgresql_where=sa.text(IN_FLIGHT))
