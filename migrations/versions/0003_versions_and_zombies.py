"""specification versions, refused writes"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Both with a default: code of the version before, still running during an upgrade, does not name them.
    op.add_column("runs", sa.Column("spec_version", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column(
        "run_attempts", sa.Column("refused_writes", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("run_attempts", "refused_writes")
    op.drop_column("runs", "spec_version")
