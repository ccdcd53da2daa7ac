"""every stored digest names its scheme: rows of code from before have the one they were made under"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

FORMER = sa.text("'python-json/1'")
"""What code from before writes without naming it."""
TABLES = ("runs", "traces", "comparisons", "prompt_sets", "snapshots")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("scheme", sa.Text(), server_default=FORMER, nullable=False))
    # Code from before checks the old column, so that this one stands beside it.
    op.add_column("traces", sa.Column("content_digest_rfc8785", sa.Text(), nullable=True))
    op.add_column("comparisons", sa.Column("content_digest_rfc8785", sa.Text(), nullable=True))
    op.add_column("idempotency_keys", sa.Column("body_digest_rfc8785", sa.Text(), nullable=True))
    _guard_traces("digest, document, content_digest, content_digest_rfc8785, scheme")


RETIRED = """jsonb_build_object('type', 'about:blank', 'title', 'Accepted for another version', 'status', 409,
  'code', 'version_retired', 'detail', 'accepted by a later release, which was taken back',
  'hint', 'submit the audit again')"""
"""What is left for a later release when that is taken back: no worker would ever take it, and its audits would wait."""
LATER = "state IN ('QUEUED','RUNNING') AND spec_version > 3"


def downgrade() -> None:
    op.execute(f"""
        UPDATE run_attempts SET outcome = 'failed', ended_at = now(), error = {RETIRED}
        WHERE outcome IS NULL AND run_id IN (SELECT id FROM runs WHERE {LATER})""")  # noqa: S608  constants of this module
    op.execute(f"""
        WITH ended AS (UPDATE runs SET state = 'FAILED', error = {RETIRED}, finished_at = now(), lease_until = NULL
                       WHERE {LATER} RETURNING id)
        UPDATE audits SET state = 'FAILED', error = {RETIRED}, finished_at = now(), version = version + 1
        WHERE state IN ('QUEUED','RUNNING')
          AND id IN (SELECT audit_id FROM audit_runs WHERE run_id IN (SELECT id FROM ended))""")  # noqa: S608  constants of this module
    _guard_traces("digest, document, content_digest")
    op.drop_column("idempotency_keys", "body_digest_rfc8785")
    op.drop_column("comparisons", "content_digest_rfc8785")
    op.drop_column("traces", "content_digest_rfc8785")
    for table in TABLES:
        op.drop_column(table, "scheme")


def _guard_traces(columns: str) -> None:
    old, new = (", ".join(f"{row}.{column}" for column in columns.split(", ")) for row in ("OLD", "NEW"))
    op.execute("DROP TRIGGER traces_immutable ON traces")
    op.execute(
        f"CREATE TRIGGER traces_immutable BEFORE UPDATE ON traces FOR EACH ROW WHEN (({old}) IS DISTINCT FROM ({new})) "
        "EXECUTE FUNCTION spinal_refuse()"
    )
