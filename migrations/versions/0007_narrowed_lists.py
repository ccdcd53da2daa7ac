"""audits are listed by state, verdict and model without reading those that do not match"""

from alembic import op
from sqlalchemy import text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NARROWED_BY = ("state", "verdict", "candidate", "reference")


def upgrade() -> None:
    for column in NARROWED_BY:
        op.create_index(
            f"ix_audits_tenant_{column}", "audits", ["tenant", column, text("created_at DESC"), text("id DESC")]
        )


def downgrade() -> None:
    for column in reversed(NARROWED_BY):
        op.drop_index(f"ix_audits_tenant_{column}", "audits")
