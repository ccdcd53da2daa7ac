"""policies of tenants, and the policy and the former audit that an audit is judged by"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

KNOWN_TO_THE_FORMER = "spinal-default/2"
"""The policy by which the release before judges whatever it settles."""
PASSES_OVER = f"""
CREATE FUNCTION spinal_other_policy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.verdict_document->>'policy_digest' IS NULL AND EXISTS (
    SELECT 1 FROM policies p
    WHERE p.tenant = NEW.tenant AND p.digest = NEW.policy AND p.name = '{KNOWN_TO_THE_FORMER}') THEN
    RETURN NEW;
  END IF;
  RETURN NULL;
END $$
"""  # noqa: S608  a constant of this module
"""The release before settles an audit without a look at its policy. Its verdict is passed over, without an error that
would fail the run for everybody who shares it: the audit stays open until this code settles it."""


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("document", JSONB(none_as_null=True), nullable=False),
        sa.Column("created_at", TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("digest ~ '^[0-9a-f]{64}$'", name=op.f("ck_policies_digest")),
        sa.CheckConstraint("name IS NOT DISTINCT FROM document->>'name'", name=op.f("ck_policies_name")),
        sa.PrimaryKeyConstraint("tenant", "digest", name=op.f("pk_policies")),
    )
    op.create_index(
        "uq_policies_tenant_name",
        "policies",
        ["tenant", "name"],
        unique=True,
        postgresql_where=sa.text("name !~ '^spinal-'"),
    )
    op.add_column("audits", sa.Column("policy", sa.Text(), nullable=True))
    op.add_column("audits", sa.Column("former", sa.UUID(), nullable=True))
    op.create_foreign_key("fk_audits_tenant_policies", "audits", "policies", ["tenant", "policy"], ["tenant", "digest"])
    op.create_foreign_key(op.f("fk_audits_former_audits"), "audits", "audits", ["former"], ["id"])
    op.create_index(
        "ix_audits_tenant_policy", "audits", ["tenant", "policy", sa.text("created_at DESC"), sa.text("id DESC")]
    )
    op.create_index(
        "ix_audits_tenant_name",
        "audits",
        ["tenant", sa.text("(labels->>'name')"), sa.text("created_at DESC"), sa.text("id DESC")],
        postgresql_where=sa.text("labels->>'name' IS NOT NULL"),
    )
    op.execute(
        "CREATE TRIGGER policies_immutable BEFORE UPDATE ON policies FOR EACH ROW EXECUTE FUNCTION spinal_refuse()"
    )
    op.execute(PASSES_OVER)
    op.execute(
        "CREATE TRIGGER audits_policy BEFORE UPDATE ON audits FOR EACH ROW "
        "WHEN (NEW.state = 'SUCCEEDED' AND NEW.policy IS NOT NULL AND OLD.state IN ('QUEUED','RUNNING') "
        "AND NEW.verdict_document->>'policy_digest' IS DISTINCT FROM NEW.policy) "
        "EXECUTE FUNCTION spinal_other_policy()"
    )


RETIRED = """jsonb_build_object('type', 'about:blank', 'title', 'Accepted for another version', 'status', 409,
  'code', 'version_retired', 'detail', 'its policy is one of a later release, which was taken back',
  'hint', 'submit the audit again')"""
"""What is left for a later release when that is taken back: older code would judge it by another policy."""


def downgrade() -> None:
    # In the order of the code that is at work beside it: later steps of a way back want the runs, too.
    op.execute("LOCK TABLE runs, audits IN ACCESS EXCLUSIVE MODE")
    op.execute(f"""
        UPDATE audits SET state = 'FAILED', error = {RETIRED}, finished_at = now(), version = version + 1
        FROM policies p WHERE p.tenant = audits.tenant AND p.digest = audits.policy
          AND p.name <> '{KNOWN_TO_THE_FORMER}' AND audits.state IN ('QUEUED','RUNNING')""")  # noqa: S608  constants of this module
    op.execute("DROP TRIGGER audits_policy ON audits")
    op.execute("DROP FUNCTION spinal_other_policy()")
    op.drop_index("ix_audits_tenant_name", "audits")
    op.drop_index("ix_audits_tenant_policy", "audits")
    op.drop_column("audits", "former")
    op.drop_column("audits", "policy")
    # Verdicts that were given stay, with every rule: each stands with its audit.
    op.drop_table("policies")
