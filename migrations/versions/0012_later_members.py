"""members of comparisons and of prompt sets that older code does not know stand apart"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLES = ("comparisons", "prompt_sets")


def upgrade() -> None:
    for table in TABLES:
        # There already after a way back: what stands in it comes into use again.
        op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS later jsonb DEFAULT '{{}}' NOT NULL")


RETIRED = """jsonb_build_object('type', 'about:blank', 'title', 'Accepted for another version', 'status', 409,
  'code', 'version_retired', 'detail', 'accepted by a later release, which was taken back',
  'hint', 'submit the audit again')"""
"""What is left for a later release when that is taken back: no worker would ever take it, and its audits would wait."""
LATER = "state IN ('QUEUED','RUNNING') AND spec_version > 4"


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
    # The columns stay. Older code passes over them, and what stands there could not be made again: a result that is
    # there is never made twice, and prompts belong to who stored them. The digest is over all members, and older code
    # would hold it to those that it reads.
    op.execute("DROP TRIGGER comparisons_immutable ON comparisons")
    op.execute("UPDATE comparisons SET content_digest_rfc8785 = NULL WHERE later <> '{}'::jsonb")
    op.execute(
        "CREATE TRIGGER comparisons_immutable BEFORE UPDATE ON comparisons FOR EACH ROW "
        "EXECUTE FUNCTION spinal_refuse()"
    )
