"""captures carry the sha256 of what was stored; members of a trace that older code does not know stand apart"""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BEFORE = "digest, document, content_digest, content_digest_rfc8785, scheme"


def upgrade() -> None:
    # Captures of code from before have none, and are held to their size as before.
    op.add_column("traces", sa.Column("capture_sha256", sa.Text(), nullable=True))
    # Code from before refuses a document with a member that it does not know.
    op.add_column("traces", sa.Column("later", JSONB(), server_default=sa.text("'{}'"), nullable=False))
    _guard_traces(f"{BEFORE}, later")


def downgrade() -> None:
    otherwise = sa.text("SELECT count(*) FROM traces WHERE jsonb_strip_nulls(later->'reading') <> '{}'::jsonb")
    found = op.get_bind().execute(otherwise).scalar()
    if found:
        raise CommandError(
            f"{found} traces were read with another tokenizer or up to a shared vocabulary, which the release before "
            "does not know: stay at this migration, or restore a backup from before they were made"
        )
    op.execute("DROP TRIGGER traces_immutable ON traces")
    # It is over members that go; code from before then holds such a row to the digest that it knows.
    op.execute("UPDATE traces SET content_digest_rfc8785 = NULL WHERE later <> '{}'::jsonb")
    _guard_traces(BEFORE)
    op.drop_column("traces", "later")
    op.drop_column("traces", "capture_sha256")


def _guard_traces(columns: str) -> None:
    old, new = (", ".join(f"{row}.{column}" for column in columns.split(", ")) for row in ("OLD", "NEW"))
    op.execute("DROP TRIGGER IF EXISTS traces_immutable ON traces")
    op.execute(
        f"CREATE TRIGGER traces_immutable BEFORE UPDATE ON traces FOR EACH ROW WHEN (({old}) IS DISTINCT FROM ({new})) "
        "EXECUTE FUNCTION spinal_refuse()"
    )
