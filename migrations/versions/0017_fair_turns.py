"""What is served next: whose turn it is, and which runs could start."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

LOCK_ORDER = "COALESCE(depth, CAST(kind = 'compare' AS int)), spec_digest"
OPEN_DEPENDENCY = """EXISTS (SELECT 1 FROM run_dependencies d JOIN runs n ON n.id = d.depends_on
      WHERE d.run_id = runs.id AND n.state <> 'SUCCEEDED')"""
WAITS_IN_LINE = "state = 'QUEUED' AND NOT waits AND NOT cancel_requested"

# Code from before does not say for whom it makes a run: its specification does, unless results are shared.
TENANTS = """
CREATE FUNCTION spinal_tenants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.tenants = ARRAY[COALESCE(NEW.spec->>'tenant', '')];
  RETURN NEW;
END $$
"""

# A needed run that has not succeeded is held until this transaction ends: it cannot succeed unseen. Whoever makes runs
# holds it already, so that nobody waits here.
WAITS = """
CREATE FUNCTION spinal_waits() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE needed text;
BEGIN
  SELECT state INTO needed FROM runs WHERE id = NEW.depends_on;
  IF needed <> 'SUCCEEDED' THEN
    SELECT state INTO needed FROM runs WHERE id = NEW.depends_on FOR SHARE;
  END IF;
  IF needed <> 'SUCCEEDED' THEN
    UPDATE runs SET waits = TRUE WHERE id = NEW.run_id AND NOT waits AND state IN ('QUEUED','RUNNING');
  END IF;
  RETURN NULL;
END $$
"""

# The runs that wait are locked first, and looked at by another statement: of two dependencies that succeed at once the
# second sees the first. They lie deeper than the one that has succeeded, which keeps the order of locks.
WAITS_NO_MORE = f"""
CREATE FUNCTION spinal_waits_no_more() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM runs WHERE id IN (SELECT run_id FROM run_dependencies WHERE depends_on = NEW.id)
    AND waits AND state IN ('QUEUED','RUNNING') ORDER BY {LOCK_ORDER} FOR NO KEY UPDATE;
  UPDATE runs SET waits = FALSE WHERE id IN (SELECT run_id FROM run_dependencies WHERE depends_on = NEW.id)
    AND waits AND state IN ('QUEUED','RUNNING') AND NOT {OPEN_DEPENDENCY};
  RETURN NULL;
END $$
"""  # noqa: S608  constants of this module

# A claim is the turn of whichever of the run's tenants was served longest ago. Two that write the same turn do not wait
# for each other: the time of one is as good as that of the other. The time of a turn is never before that of another
# in the queue, whatever becomes of the clock.
# What a worker that goes away hands back was no turn, unless the tenant had another since. What is handed back with a
# pause, for something that the worker lacks, was one: a tenant with many such runs would otherwise go first each time.
TURN = """
CREATE FUNCTION spinal_turn() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  free boolean;
BEGIN
  IF NEW.state = 'RUNNING' THEN
    SELECT m.tenant, t.served_at INTO NEW.turn_of, NEW.turn_before FROM unnest(NEW.tenants) AS m(tenant)
      LEFT JOIN turns t ON t.queue = NEW.queue AND t.tenant = m.tenant
      ORDER BY t.served_at NULLS FIRST, m.tenant LIMIT 1;
    NEW.turn_at = NULL;
  END IF;
  IF NEW.turn_of IS NULL OR (NEW.state = 'QUEUED' AND NEW.turn_at IS NULL) THEN
    RETURN NEW;
  END IF;
  free = pg_try_advisory_xact_lock(hashtextextended(NEW.queue || chr(31) || NEW.turn_of, 17));
  IF NOT free THEN
    RETURN NEW;
  END IF;
  IF NEW.state = 'RUNNING' THEN
    INSERT INTO turns (queue, tenant, served_at) SELECT NEW.queue, NEW.turn_of,
        GREATEST(clock_timestamp(), max(served_at) + interval '1 microsecond') FROM turns WHERE queue = NEW.queue
      ON CONFLICT (queue, tenant) DO UPDATE SET served_at = EXCLUDED.served_at
      RETURNING served_at INTO NEW.turn_at;
  ELSIF NEW.turn_before IS NULL THEN
    DELETE FROM turns WHERE queue = NEW.queue AND tenant = NEW.turn_of AND served_at = NEW.turn_at;
  ELSE
    UPDATE turns SET served_at = NEW.turn_before
      WHERE queue = NEW.queue AND tenant = NEW.turn_of AND served_at = NEW.turn_at;
  END IF;
  RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "turns",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("served_at", TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("queue", "tenant", name=op.f("pk_turns")),
    )
    op.create_index("ix_turns_served", "turns", ["queue", "served_at"])
    op.add_column("runs", sa.Column("tenants", ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("runs", sa.Column("waits", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("runs", sa.Column("turn_of", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("turn_at", TIMESTAMP(timezone=True), nullable=True))
    op.add_column("runs", sa.Column("turn_before", TIMESTAMP(timezone=True), nullable=True))
    op.execute("LOCK TABLE runs, run_dependencies IN SHARE ROW EXCLUSIVE MODE")
    # What has ended is final, and in no line.
    op.execute(f"""
        UPDATE runs SET waits = {OPEN_DEPENDENCY}, tenants = COALESCE(
            NULLIF(ARRAY(SELECT DISTINCT a.tenant FROM audit_runs x JOIN audits a ON a.id = x.audit_id
              WHERE x.run_id = runs.id AND a.state IN ('QUEUED','RUNNING') ORDER BY 1), '{{}}'),
            ARRAY[COALESCE(spec->>'tenant', '')])
        WHERE state IN ('QUEUED','RUNNING')""")  # noqa: S608  a constant of this module
    for function in (TENANTS, WAITS, WAITS_NO_MORE, TURN):
        op.execute(function)
    op.execute(
        "CREATE TRIGGER runs_tenants BEFORE INSERT ON runs FOR EACH ROW WHEN (NEW.tenants = '{}') "
        "EXECUTE FUNCTION spinal_tenants()"
    )
    op.execute(
        "CREATE TRIGGER run_dependencies_waits AFTER INSERT ON run_dependencies FOR EACH ROW "
        "EXECUTE FUNCTION spinal_waits()"
    )
    op.execute(
        "CREATE TRIGGER runs_waits_no_more AFTER UPDATE OF state ON runs FOR EACH ROW "
        "WHEN (NEW.state = 'SUCCEEDED' AND OLD.state <> 'SUCCEEDED') EXECUTE FUNCTION spinal_waits_no_more()"
    )
    op.execute(
        "CREATE TRIGGER runs_turn BEFORE UPDATE OF state ON runs FOR EACH ROW "
        "WHEN ((OLD.state = 'QUEUED' AND NEW.state = 'RUNNING') OR "
        "(OLD.state = 'RUNNING' AND NEW.state = 'QUEUED' AND NEW.charged_attempts < OLD.charged_attempts "
        "AND NEW.not_before <= now())) "
        "EXECUTE FUNCTION spinal_turn()"
    )
    line = ["queue", sa.text("(- priority)"), "tenants"]
    op.create_index(
        "ix_runs_to_ring",
        "runs",
        [*line, sa.text("GREATEST(created_at, not_before)"), "created_at", "id"],
        postgresql_where=sa.text(f"{WAITS_IN_LINE} AND rung_at IS NULL"),
    )
    op.create_index(
        "ix_runs_to_claim",
        "runs",
        [*line, "created_at", "id"],
        postgresql_where=sa.text(f"{WAITS_IN_LINE} AND rung_at IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_rung",
        "runs",
        ["queue", "rung_at"],
        # Other words than those of the line to claim from: a look at that, without statistics, must not come here.
        postgresql_where=sa.text("state = 'QUEUED' AND rung_at > '-infinity'"),
    )


def downgrade() -> None:
    for index in ("ix_runs_rung", "ix_runs_to_claim", "ix_runs_to_ring"):
        op.drop_index(index, "runs")
    for trigger, table in (
        ("runs_turn", "runs"),
        ("runs_waits_no_more", "runs"),
        ("run_dependencies_waits", "run_dependencies"),
        ("runs_tenants", "runs"),
    ):
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
    for function in ("spinal_turn", "spinal_waits_no_more", "spinal_waits", "spinal_tenants"):
        op.execute(f"DROP FUNCTION {function}()")
    for column in ("turn_before", "turn_at", "turn_of", "waits", "tenants"):
        op.drop_column("runs", column)
    op.drop_table("turns")
