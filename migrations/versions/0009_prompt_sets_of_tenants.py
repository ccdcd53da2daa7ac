"""prompt sets are those of the tenants that stored them: the content is shared, names and lists are not"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tenant_prompt_sets",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("created_at", TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "digest", name=op.f("pk_tenant_prompt_sets")),
        sa.ForeignKeyConstraint(
            ["digest"], ["prompt_sets.digest"], name=op.f("fk_tenant_prompt_sets_digest_prompt_sets")
        ),
    )
    op.create_index("ix_tenant_prompt_sets_name", "tenant_prompt_sets", ["tenant", "name", sa.text("created_at DESC")])
    op.create_index(op.f("ix_tenant_prompt_sets_digest"), "tenant_prompt_sets", ["digest"])
    # Whoever has asked for a set has it. Its name is the one that the first tenant gave it, and only where no other
    # tenant uses the set is that known to be this tenant's own.
    op.execute("""
        INSERT INTO tenant_prompt_sets (tenant, digest, name, created_at)
        SELECT used.tenant, used.digest,
          CASE WHEN count(*) OVER (PARTITION BY used.digest) = 1 THEN p.name END, used.first
        FROM (SELECT tenant, spec->'prompt_set'->>'digest' AS digest, min(created_at) AS first
              FROM audits GROUP BY 1, 2) AS used
        JOIN prompt_sets p ON p.digest = used.digest""")


def downgrade() -> None:
    op.drop_table("tenant_prompt_sets")
