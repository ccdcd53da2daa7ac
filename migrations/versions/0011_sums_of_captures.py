"""captures carry the sha256 of what was stored: one that was altered in place is a missing one"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Captures of code from before have none, and are held to their size as before.
    op.add_column("traces", sa.Column("capture_sha256", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("traces", "capture_sha256")
