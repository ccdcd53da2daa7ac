"""what tenants hold is counted, their data can be deleted, and work that is done now and then has a turn"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

OPEN = "IN ('QUEUED','RUNNING')"
SIZE = "octet_length(p.prompts::text) + octet_length(p.continuations::text) + octet_length(p.later::text)"
"""Bytes of a prompt set, as JSON."""

# Whoever ends an audit only adds a row, and locks nothing that somebody else wants: audits of several tenants may end
# in one transaction. Whoever opens one adds the rows up, under the lock of the tenant's count. By triggers, so that
# code of the release before is counted, too.
COUNT_AUDITS = f"""
CREATE FUNCTION spinal_count_audits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'DELETE' AND NEW.state {OPEN} THEN
    INSERT INTO tenant_count_changes (tenant, what, change) VALUES (NEW.tenant, 'open_audits', 1);
  END IF;
  IF TG_OP <> 'INSERT' AND OLD.state {OPEN} THEN
    INSERT INTO tenant_count_changes (tenant, what, change) VALUES (OLD.tenant, 'open_audits', -1);
  END IF;
  RETURN NULL;
END $$
"""  # noqa: S608  constants of this module
COUNT_KEYS = """
CREATE FUNCTION spinal_count_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO tenant_count_changes (tenant, what, change) VALUES (NEW.tenant, 'idempotency_keys', 1);
  ELSE
    INSERT INTO tenant_count_changes (tenant, what, change) VALUES (OLD.tenant, 'idempotency_keys', -1);
  END IF;
  RETURN NULL;
END $$
"""
COUNT_SETS = f"""
CREATE FUNCTION spinal_count_sets() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  of_tenant text := CASE TG_OP WHEN 'INSERT' THEN NEW.tenant ELSE OLD.tenant END;
  of_set text := CASE TG_OP WHEN 'INSERT' THEN NEW.digest ELSE OLD.digest END;
  sign int := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
  INSERT INTO tenant_count_changes (tenant, what, change) SELECT of_tenant, what, sign * value
    FROM prompt_sets p CROSS JOIN LATERAL (VALUES ('prompt_sets', 1), ('prompt_bytes', {SIZE})) AS v(what, value)
    WHERE p.digest = of_set;
  RETURN NULL;
END $$
"""  # noqa: S608  constants of this module
COUNTED = {"audits": "audits", "idempotency_keys": "keys", "tenant_prompt_sets": "sets"}

# A request that was admitted before its tenant's data were deleted may still be at work afterwards. Only a digest of
# the name is kept, and it is of no effect after an hour, which no request takes.
REFUSE_DELETED = """
CREATE FUNCTION spinal_refuse_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM deleted_tenants WHERE digest = encode(sha256(convert_to(NEW.tenant, 'UTF8')), 'hex')
      AND deleted_at > now() - interval '1 hour') THEN
    RAISE EXCEPTION 'the data of this tenant are deleted' USING ERRCODE = 'SP410';
  END IF;
  RETURN NULL;
END $$
"""
OF_TENANTS = ("audits", "idempotency_keys", "models", "policies", "series", "tenant_prompt_sets")

REFUSES = """
CREATE OR REPLACE FUNCTION spinal_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
{declare}BEGIN
  {unless}RAISE EXCEPTION '% on % refused: the row is final', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$
"""
NAMED = """DECLARE
  named text[] := CASE TG_TABLE_NAME WHEN 'runs' THEN '{spec,tenants,turn_of}' WHEN 'audits' THEN '{series}' END;
"""
"""Columns that may change while a tenant is deleted: of a run that others need, what names the tenant and what it
called its models; of an audit the series, which goes first."""
UNLESS_DELETED = """IF COALESCE(current_setting('spinal.deletes_tenant', TRUE), '') <> ''
      AND COALESCE(to_jsonb(OLD)->>'tenant', current_setting('spinal.deletes_tenant'))
        = current_setting('spinal.deletes_tenant') THEN
    IF TG_OP = 'DELETE' THEN
      RETURN OLD;
    ELSIF to_jsonb(OLD) - named = to_jsonb(NEW) - named THEN
      RETURN NEW;
    END IF;
  END IF;
  """
"""In a transaction that deletes a tenant: its audits, and runs that nobody needs any more."""


def upgrade() -> None:
    op.create_table(
        "tenant_counts",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("held", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "what", name=op.f("pk_tenant_counts")),
    )
    op.create_table(
        "tenant_count_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenant_count_changes")),
    )
    op.create_index("ix_tenant_count_changes_tenant", "tenant_count_changes", ["tenant", "what"])
    op.create_table(
        "deleted_tenants",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("deleted_at", TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_deleted_tenants")),
    )
    op.create_table(
        "chores",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("due_at", TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("held_by", sa.UUID(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_chores")),
    )
    # What a row that is deleted is looked for in, each time.
    op.create_index("ix_audits_former", "audits", ["former"], postgresql_where=sa.text("former IS NOT NULL"))
    op.create_index("ix_idempotency_keys_audit", "idempotency_keys", ["audit_id"])
    op.create_index("ix_idempotency_keys_tenant_created", "idempotency_keys", ["tenant", "created_at"])
    op.create_index("ix_comparisons_candidate", "comparisons", ["candidate_digest"])
    for function in (
        COUNT_AUDITS,
        COUNT_KEYS,
        COUNT_SETS,
        REFUSE_DELETED,
        REFUSES.format(declare=NAMED, unless=UNLESS_DELETED),
    ):
        op.execute(function)
    # Before the rows that are there are counted: nobody adds one more until this transaction has ended.
    op.execute(
        f"CREATE TRIGGER audits_changed AFTER UPDATE OF state ON audits FOR EACH ROW "
        f"WHEN ((OLD.state {OPEN}) <> (NEW.state {OPEN})) EXECUTE FUNCTION spinal_count_audits()"
    )
    for table, what in COUNTED.items():
        op.execute(
            f"CREATE TRIGGER {table}_counted AFTER INSERT OR DELETE ON {table} FOR EACH ROW "
            f"EXECUTE FUNCTION spinal_count_{what}()"
        )
    for table in OF_TENANTS:
        op.execute(
            f"CREATE TRIGGER {table}_deleted AFTER INSERT ON {table} FOR EACH ROW "
            f"EXECUTE FUNCTION spinal_refuse_deleted()"
        )
    op.execute(f"""
        INSERT INTO tenant_counts (tenant, what, held)
        SELECT tenant, 'open_audits', count(*) FROM audits WHERE state {OPEN} GROUP BY tenant
        UNION ALL SELECT tenant, 'idempotency_keys', count(*) FROM idempotency_keys GROUP BY tenant
        UNION ALL SELECT tenant, 'prompt_sets', count(*) FROM tenant_prompt_sets GROUP BY tenant
        UNION ALL SELECT own.tenant, 'prompt_bytes', sum({SIZE}) FROM tenant_prompt_sets own
          JOIN prompt_sets p ON p.digest = own.digest GROUP BY own.tenant""")  # noqa: S608  constants of this module


def downgrade() -> None:
    for table in OF_TENANTS:
        op.execute(f"DROP TRIGGER {table}_deleted ON {table}")
    for table in COUNTED:
        op.execute(f"DROP TRIGGER {table}_counted ON {table}")
    op.execute("DROP TRIGGER audits_changed ON audits")
    op.execute(REFUSES.format(declare="", unless=""))
    for function in ("refuse_deleted", "count_sets", "count_keys", "count_audits"):
        op.execute(f"DROP FUNCTION spinal_{function}()")
    op.drop_index("ix_comparisons_candidate", "comparisons")
    op.drop_index("ix_idempotency_keys_tenant_created", "idempotency_keys")
    op.drop_index("ix_idempotency_keys_audit", "idempotency_keys")
    op.drop_index("ix_audits_former", "audits")
    for table in ("chores", "deleted_tenants", "tenant_count_changes", "tenant_counts"):
        op.drop_table(table)
