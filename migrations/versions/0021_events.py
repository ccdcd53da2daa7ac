"""what has happened is written down with it, and told to webhooks and registries; attestations; HMACs that bind"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# In the transaction of the end itself, by whichever release's code. Rows are only added: nobody waits for anybody.
AUDIT_ENDED = """
CREATE FUNCTION spinal_audit_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO events (tenant, type, subject_kind, subject, detail)
  VALUES (NEW.tenant, 'audit.' || lower(NEW.state), 'audit', NEW.id, jsonb_build_object('version', NEW.version));
  RETURN NULL;
END $$
"""
SERIES_ASSESSED = """
CREATE FUNCTION spinal_series_assessed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  covers jsonb := jsonb_build_object('members', NEW.covers_members, 'settled', NEW.covers_settled);
BEGIN
  IF NEW.status IS DISTINCT FROM OLD.status THEN
    INSERT INTO events (tenant, type, subject_kind, subject, detail) VALUES (NEW.tenant, 'series.status', 'series',
      NEW.id, covers || jsonb_build_object('status', NEW.status, 'former', OLD.status));
  END IF;
  IF NEW.covers_closed AND NEW.covers_settled = NEW.covers_members
      AND NOT (OLD.covers_closed AND OLD.covers_settled = OLD.covers_members) THEN
    INSERT INTO events (tenant, type, subject_kind, subject, detail) VALUES (NEW.tenant, 'series.ended', 'series',
      NEW.id, covers || jsonb_build_object('status', NEW.status));
  END IF;
  RETURN NULL;
END $$
"""
OF_TENANTS = (
    "attestations",
    "deliveries",
    "link_revocations",
    "received_events",
    "registry_rules",
    "registry_versions",
    "webhooks",
)
"""Rows that requests and loops add. Events are not among them: audits that are cancelled because their tenant is
deleted end like others, and their events are deleted behind them."""
IMMUTABLE = ("attestations", "delivery_tries", "weights_files")


def _when(name: str = "created_at", *, nullable: bool = False) -> sa.Column[object]:
    default = None if nullable else sa.text("now()")
    return sa.Column(name, TIMESTAMP(timezone=True), server_default=default, nullable=nullable)


def _object(name: str) -> sa.Column[object]:
    return sa.Column(name, JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False)


def _newest_first(table: str, *columns: str, name: str) -> None:
    op.create_index(name, table, [*columns, sa.text("created_at DESC"), sa.text("id DESC")])


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("bound_hmac", sa.Text(), nullable=True))
    op.create_table(
        "link_revocations",
        sa.Column("tenant", sa.Text(), nullable=False),
        _when("revoked_at"),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_link_revocations")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("subject_kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.UUID(), nullable=False),
        _object("detail"),
        _when(),
        _when("sent_out_at", nullable=True),
        sa.CheckConstraint(r"type ~ '^[a-z]+(\.[a-z_]+)+$'", name=op.f("ck_events_type")),
        sa.CheckConstraint(
            "subject_kind IN ('audit','registry_version','series','webhook')", name=op.f("ck_events_subject_kind")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("seq", name=op.f("uq_events_seq")),
    )
    op.create_index("ix_events_to_send_out", "events", ["seq"], postgresql_where=sa.text("sent_out_at IS NULL"))
    _newest_first("events", "tenant", name="ix_events_tenant_created")
    op.create_index("ix_events_subject", "events", ["subject"])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("events", JSONB(), nullable=False),
        _object("filters"),
        sa.Column("signature", sa.Text(), server_default=sa.text("'v1'"), nullable=False),
        sa.Column("generation", sa.Integer(), server_default=sa.text("1"), nullable=False),
        _when("rotated_at", nullable=True),
        _when("former_until", nullable=True),
        _when("disabled_at", nullable=True),
        sa.Column("disabled_why", sa.Text(), nullable=True),
        _when("failing_since", nullable=True),
        _when("deleted_at", nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        _when(),
        sa.CheckConstraint("signature IN ('v1','v1a')", name=op.f("ck_webhooks_signature")),
        sa.CheckConstraint("(disabled_at IS NULL) = (disabled_why IS NULL)", name=op.f("ck_webhooks_disabled")),
        sa.CheckConstraint(
            "deleted_at IS NULL OR (disabled_at IS NOT NULL AND url = '')", name=op.f("ck_webhooks_deleted")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(
        "ix_webhooks_tenant_created",
        "webhooks",
        ["tenant", sa.text("created_at DESC"), sa.text("id DESC")],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("event_id", sa.UUID(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("webhook_id", sa.UUID(), nullable=True),
        _object("place"),
        sa.Column("sent_again", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        _when(),
        sa.CheckConstraint("target ~ '^[a-z][a-z_]{0,31}$'", name=op.f("ck_deliveries_target")),
        sa.CheckConstraint("(target = 'webhook') = (webhook_id IS NOT NULL)", name=op.f("ck_deliveries_webhook")),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_deliveries_event_id_events")),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name=op.f("fk_deliveries_webhook_id_webhooks")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("digest", name=op.f("uq_deliveries_digest")),
    )
    _newest_first("deliveries", "tenant", name="ix_deliveries_tenant_created")
    _newest_first("deliveries", "webhook_id", name="ix_deliveries_webhook")
    op.create_index("ix_deliveries_event", "deliveries", ["event_id"])
    op.create_index("uq_deliveries_run", "deliveries", ["run_id"], unique=True)
    op.create_table(
        "delivery_tries",
        sa.Column("delivery_id", sa.UUID(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        _when("tried_at"),
        sa.Column("took_ms", sa.Integer(), nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["deliveries.id"],
            ondelete="CASCADE",
            name=op.f("fk_delivery_tries_delivery_id_deliveries"),
        ),
        sa.PrimaryKeyConstraint("delivery_id", "attempt", name=op.f("pk_delivery_tries")),
    )
    op.create_table(
        "received_events",
        sa.Column("registry", sa.Text(), nullable=False),
        sa.Column("delivery", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("body_digest", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        _object("detail"),
        _when("received_at"),
        sa.PrimaryKeyConstraint("registry", "delivery", name=op.f("pk_received_events")),
    )
    op.create_index("ix_received_events_received", "received_events", ["received_at"])
    op.create_index("ix_received_events_registry", "received_events", ["registry", sa.text("received_at DESC")])
    op.create_table(
        "registry_versions",
        sa.Column("registry", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("past", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        _object("detail"),
        sa.Column("audit_id", sa.UUID(), nullable=True),
        sa.Column("refused", JSONB(), nullable=True),
        _when("due_at"),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _when(),
        sa.PrimaryKeyConstraint("registry", "model", "version", "rule", name=op.f("pk_registry_versions")),
        sa.UniqueConstraint("id", name=op.f("uq_registry_versions_id")),
    )
    op.create_index("ix_registry_versions_audit", "registry_versions", ["audit_id"])
    op.create_index(
        "ix_registry_versions_to_do",
        "registry_versions",
        ["due_at"],
        postgresql_where=sa.text("audit_id IS NULL AND refused IS NULL AND NOT past"),
    )
    _newest_first("registry_versions", "tenant", "registry", name="ix_registry_versions_tenant")
    op.create_table(
        "registry_rules",
        sa.Column("registry", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        _when("polled_at", nullable=True),
        sa.Column("failure", JSONB(), nullable=True),
        sa.Column("selection", sa.Text(), nullable=True),
        sa.Column("unseen", JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("registry", "rule", name=op.f("pk_registry_rules")),
    )
    op.create_index("ix_registry_rules_tenant", "registry_rules", ["tenant"])
    op.create_table(
        "attestations",
        sa.Column("audit_id", sa.UUID(), nullable=False),
        sa.Column("predicate_type", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("statement", JSONB(), nullable=False),
        sa.Column("envelope", JSONB(), nullable=False),
        _when(),
        sa.PrimaryKeyConstraint("audit_id", "predicate_type", "key_id", name=op.f("pk_attestations")),
    )
    op.create_index("ix_attestations_tenant", "attestations", ["tenant"])
    op.create_table(
        "weights_files",
        sa.Column("weights_digest", sa.Text(), nullable=False),
        sa.Column("files", JSONB(), nullable=False),
        sa.Column("base", sa.Text(), nullable=True),
        _when(),
        sa.PrimaryKeyConstraint("weights_digest", name=op.f("pk_weights_files")),
    )
    for function in (AUDIT_ENDED, SERIES_ASSESSED):
        op.execute(function)
    op.execute(
        "CREATE TRIGGER audits_ended AFTER UPDATE OF state ON audits FOR EACH ROW "
        "WHEN (OLD.state IN ('QUEUED','RUNNING') AND NEW.state IN ('SUCCEEDED','FAILED','CANCELLED')) "
        "EXECUTE FUNCTION spinal_audit_ended()"
    )
    op.execute(
        "CREATE TRIGGER series_assessed AFTER UPDATE OF status, covers_closed, covers_settled, covers_members ON "
        "series FOR EACH ROW EXECUTE FUNCTION spinal_series_assessed()"
    )
    for table in IMMUTABLE:
        op.execute(
            f"CREATE TRIGGER {table}_immutable BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION spinal_refuse()"
        )
    for table in OF_TENANTS:
        op.execute(
            f"CREATE TRIGGER {table}_deleted AFTER INSERT ON {table} FOR EACH ROW "
            f"EXECUTE FUNCTION spinal_refuse_deleted()"
        )


def downgrade() -> None:
    op.execute("DROP TRIGGER series_assessed ON series")
    op.execute("DROP TRIGGER audits_ended ON audits")
    for table in (
        "link_revocations", "weights_files", "attestations", "registry_rules", "registry_versions", "received_events",
        "delivery_tries", "deliveries", "webhooks", "events",
    ):  # fmt: skip
        op.drop_table(table)
    for function in ("series_assessed", "audit_ended"):
        op.execute(f"DROP FUNCTION spinal_{function}()")
    # Keys go on under the HMAC that code from before knows.
    op.drop_column("api_keys", "bound_hmac")
