"""Which installation a store of captures belongs to, and how often captures were made again."""

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
