"""what an audit holds follows from its runs: found by their results, locked by the depth of their specifications"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("depth", sa.Integer(), nullable=True))
    op.create_index("ix_runs_result_digest", "runs", ["result_digest"])


def downgrade() -> None:
    op.drop_index("ix_runs_result_digest", "runs")
    op.drop_column("runs", "depth")
