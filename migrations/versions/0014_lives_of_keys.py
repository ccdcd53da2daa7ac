"""keys say what they are for, when they were last used, and which key took their place"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Code from before passes over all three, and holds a key to ``expires_at`` as this code does.
    op.add_column("api_keys", sa.Column("description", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("last_used_at", TIMESTAMP(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("replaced_by", sa.Text(), nullable=True))


def downgrade() -> None:
    for column in ("replaced_by", "last_used_at", "description"):
        op.drop_column("api_keys", column)
