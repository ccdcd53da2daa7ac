"""a verdict belongs to the audit that it was decided for: a document beside its outcome"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Rows of the release before keep their verdict in the comparison that they name; nothing is copied.
    op.add_column("audits", sa.Column("verdict_document", JSONB(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("audits", "verdict_document")
