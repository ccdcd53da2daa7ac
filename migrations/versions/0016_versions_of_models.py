"""registered models have versions, which never move, and aliases, which do"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# Code from before registers a name and a reference and no more. Whoever brings versions inserts them in the statement
# that inserts the model: they are there when this runs, at its end.
FIRST_VERSION = """
CREATE FUNCTION spinal_first_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM model_versions WHERE model_id = NEW.id) THEN
    INSERT INTO model_versions (model_id, version, number, reference, created_at)
      VALUES (NEW.id, '1', 1, NEW.reference, NEW.created_at);
  END IF;
  RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "model_versions",
        sa.Column("model_id", sa.UUID(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("labels", JSONB(none_as_null=True), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_at", TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("number >= 1", name=op.f("ck_model_versions_number")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_model_versions_model_id_models")),
        sa.PrimaryKeyConstraint("model_id", "version", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("model_id", "number", name="uq_model_versions_number"),
    )
    op.create_table(
        "model_aliases",
        sa.Column("model_id", sa.UUID(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("moved_at", TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id", "version"],
            ["model_versions.model_id", "model_versions.version"],
            name="fk_model_aliases_version",
        ),
        sa.PrimaryKeyConstraint("model_id", "alias", name=op.f("pk_model_aliases")),
    )
    op.create_index("ix_model_aliases_version", "model_aliases", ["model_id", "version"])
    op.execute(
        "CREATE TRIGGER model_versions_immutable BEFORE UPDATE ON model_versions FOR EACH ROW "
        "EXECUTE FUNCTION spinal_refuse()"
    )
    op.execute(FIRST_VERSION)
    # Before the rows that are there get theirs: nobody inserts one more until this transaction has ended.
    op.execute(
        "CREATE TRIGGER models_first_version AFTER INSERT ON models FOR EACH ROW "
        "EXECUTE FUNCTION spinal_first_version()"
    )
    op.execute(
        "INSERT INTO model_versions (model_id, version, number, reference, created_at) "
        "SELECT id, '1', 1, reference, created_at FROM models"
    )


def downgrade() -> None:
    # Each name keeps the reference of its newest version.
    op.execute("DROP TRIGGER models_first_version ON models")
    op.execute("DROP FUNCTION spinal_first_version()")
    op.drop_index("ix_model_aliases_version", "model_aliases")
    op.drop_table("model_aliases")
    op.drop_table("model_versions")
