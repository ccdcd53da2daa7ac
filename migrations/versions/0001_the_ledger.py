"""the ledger"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


KEEP_TERMINAL = """
CREATE FUNCTION spinal_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% on % refused: the row is final', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$
"""


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("secret_hmac", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("revoked_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column(
            "labels",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("tenant", "name", name="uq_models_tenant_name"),
    )
    op.create_table(
        "prompt_sets",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("prompts", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("continuations", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_prompt_sets")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("spec", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("spec_digest", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'QUEUED'"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("charged_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("deadline_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("not_before", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("rung_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("progress", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("result_digest", sa.Text(), nullable=True),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'RUNNING') = (lease_until IS NOT NULL)", name=op.f("ck_runs_lease_while_running")),
        sa.CheckConstraint(
            "(state = 'SUCCEEDED') = (result_digest IS NOT NULL)", name=op.f("ck_runs_result_when_succeeded")
        ),
        sa.CheckConstraint(
            "(state IN ('SUCCEEDED','FAILED','CANCELLED')) = (finished_at IS NOT NULL)",
            name=op.f("ck_runs_finished_when_terminal"),
        ),
        sa.CheckConstraint("kind IN ('trace','compare')", name=op.f("ck_runs_kind")),
        sa.CheckConstraint("state <> 'FAILED' OR error IS NOT NULL", name=op.f("ck_runs_error_when_failed")),
        sa.CheckConstraint(
            "state IN ('QUEUED','RUNNING','SUCCEEDED','FAILED','CANCELLED')", name=op.f("ck_runs_state")
        ),
        sa.CheckConstraint("attempt >= 0", name=op.f("ck_runs_attempt")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index(
        "ix_runs_lease", "runs", ["lease_until"], unique=False, postgresql_where=sa.text("state = 'RUNNING'")
    )
    op.create_index(
        "ix_runs_queued", "runs", ["priority", "created_at"], unique=False, postgresql_where=sa.text("state = 'QUEUED'")
    )
    op.create_index("ix_runs_spec_digest", "runs", ["spec_digest"], unique=False)
    op.create_index(
        "uq_runs_spec_in_flight",
        "runs",
        ["spec_digest"],
        unique=True,
        postgresql_where=sa.text("state IN ('QUEUED','RUNNING') AND NOT cancel_requested"),
    )
    op.create_table(
        "snapshots",
        sa.Column("snapshot_digest", sa.Text(), nullable=False),
        sa.Column("weights_digest", sa.Text(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("snapshot_digest", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "traces",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("weights_digest", sa.Text(), nullable=False),
        sa.Column("prompt_set_digest", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("engine_version", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("n_layers", sa.Integer(), nullable=False),
        sa.Column("document", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("content_digest", sa.Text(), nullable=False),
        sa.Column("capture_uri", sa.Text(), nullable=True),
        sa.Column("capture_bytes", sa.BigInteger(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_traces")),
    )
    op.create_index(op.f("ix_traces_created_at"), "traces", ["created_at"], unique=False)
    op.create_index(op.f("ix_traces_weights_digest"), "traces", ["weights_digest"], unique=False)
    op.create_table(
        "comparisons",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("reference_digest", sa.Text(), nullable=False),
        sa.Column("candidate_digest", sa.Text(), nullable=False),
        sa.Column("comparison_fingerprint", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_digest"], ["traces.digest"], name=op.f("fk_comparisons_candidate_digest_traces")
        ),
        sa.ForeignKeyConstraint(
            ["reference_digest"], ["traces.digest"], name=op.f("fk_comparisons_reference_digest_traces")
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_comparisons")),
    )
    op.create_index("ix_comparisons_pair", "comparisons", ["reference_digest", "candidate_digest"], unique=False)
    op.create_table(
        "run_attempts",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint(
            "outcome IS NULL OR outcome IN ('succeeded','failed','cancelled','released','lost','retry')",
            name=op.f("ck_run_attempts_outcome"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_attempts_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "attempt", name=op.f("pk_run_attempts")),
    )
    op.create_index(
        "uq_run_attempts_succeeded",
        "run_attempts",
        ["run_id"],
        unique=True,
        postgresql_where=sa.text("outcome = 'succeeded'"),
    )
    op.create_table(
        "run_dependencies",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("depends_on", sa.UUID(), nullable=False),
        sa.ForeignKeyConstraint(["depends_on"], ["runs.id"], name=op.f("fk_run_dependencies_depends_on_runs")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_dependencies_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "depends_on", name=op.f("pk_run_dependencies")),
    )
    op.create_index(op.f("ix_run_dependencies_depends_on"), "run_dependencies", ["depends_on"], unique=False)
    op.create_table(
        "trace_layers",
        sa.Column("trace_digest", sa.Text(), nullable=False),
        sa.Column("layer", sa.Integer(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("depth", sa.Double(), nullable=False),
        sa.Column("contraction", sa.Double(), nullable=True),
        sa.Column("contraction_se", sa.Double(), nullable=True),
        sa.Column("transport", sa.Double(), nullable=True),
        sa.Column("transport_se", sa.Double(), nullable=True),
        sa.Column("entropy", sa.Double(), nullable=False),
        sa.Column("effective_rank", sa.Double(), nullable=True),
        sa.Column("detail", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint("policy IN ('last','all')", name=op.f("ck_trace_layers_policy")),
        sa.ForeignKeyConstraint(["trace_digest"], ["traces.digest"], name=op.f("fk_trace_layers_trace_digest_traces")),
        sa.PrimaryKeyConstraint("trace_digest", "layer", "policy", name=op.f("pk_trace_layers")),
    )
    op.create_table(
        "audits",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("request", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("spec", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column(
            "labels",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'QUEUED'"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("candidate_trace", sa.Text(), nullable=True),
        sa.Column("reference_trace", sa.Text(), nullable=True),
        sa.Column("comparison", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state IN ('SUCCEEDED','FAILED','CANCELLED')) = (finished_at IS NOT NULL)",
            name=op.f("ck_audits_finished_when_terminal"),
        ),
        sa.CheckConstraint("state <> 'FAILED' OR error IS NOT NULL", name=op.f("ck_audits_error_when_failed")),
        sa.CheckConstraint(
            "state IN ('QUEUED','RUNNING','SUCCEEDED','FAILED','CANCELLED')", name=op.f("ck_audits_state")
        ),
        sa.CheckConstraint(
            "verdict IS NULL OR verdict IN ('pass','warn','fail','inconclusive')", name=op.f("ck_audits_verdict")
        ),
        sa.ForeignKeyConstraint(["candidate_trace"], ["traces.digest"], name=op.f("fk_audits_candidate_trace_traces")),
        sa.ForeignKeyConstraint(["comparison"], ["comparisons.digest"], name=op.f("fk_audits_comparison_comparisons")),
        sa.ForeignKeyConstraint(["reference_trace"], ["traces.digest"], name=op.f("fk_audits_reference_trace_traces")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audits")),
    )
    op.create_index("ix_audits_labels", "audits", ["labels"], unique=False, postgresql_using="gin")
    op.create_index(
        "ix_audits_tenant_created",
        "audits",
        ["tenant", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
    )
    op.create_table(
        "audit_runs",
        sa.Column("audit_id", sa.UUID(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.CheckConstraint("role IN ('candidate','reference','compare')", name=op.f("ck_audit_runs_role")),
        sa.ForeignKeyConstraint(["audit_id"], ["audits.id"], name=op.f("fk_audit_runs_audit_id_audits")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_audit_runs_run_id_runs")),
        sa.PrimaryKeyConstraint("audit_id", "role", name=op.f("pk_audit_runs")),
    )
    op.create_index(op.f("ix_audit_runs_run_id"), "audit_runs", ["run_id"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_digest", sa.Text(), nullable=False),
        sa.Column("audit_id", sa.UUID(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["audit_id"], ["audits.id"], name=op.f("fk_idempotency_keys_audit_id_audits")),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("pk_idempotency_keys")),
    )

    op.execute(KEEP_TERMINAL)
    for table in ("runs", "audits"):
        op.execute(
            f"CREATE TRIGGER {table}_terminal BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW "
            f"WHEN (OLD.state IN ('SUCCEEDED','FAILED','CANCELLED')) EXECUTE FUNCTION spinal_refuse()"
        )
    op.execute(
        "CREATE TRIGGER traces_immutable BEFORE UPDATE ON traces FOR EACH ROW WHEN "
        "((OLD.digest, OLD.document, OLD.content_digest) IS DISTINCT FROM "
        "(NEW.digest, NEW.document, NEW.content_digest)) EXECUTE FUNCTION spinal_refuse()"
    )
    for table in ("trace_layers", "comparisons"):
        op.execute(
            f"CREATE TRIGGER {table}_immutable BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION spinal_refuse()"
        )


def downgrade() -> None:
    op.drop_table("idempotency_keys")
    op.drop_index(op.f("ix_audit_runs_run_id"), table_name="audit_runs")
    op.drop_table("audit_runs")
    op.drop_index("ix_audits_tenant_created", table_name="audits")
    op.drop_index("ix_audits_labels", table_name="audits", postgresql_using="gin")
    op.drop_table("audits")
    op.drop_table("trace_layers")
    op.drop_index(op.f("ix_run_dependencies_depends_on"), table_name="run_dependencies")
    op.drop_table("run_dependencies")
    op.drop_index(
        "uq_run_attempts_succeeded", table_name="run_attempts", postgresql_where=sa.text("outcome = 'succeeded'")
    )
    op.drop_table("run_attempts")
    op.drop_index("ix_comparisons_pair", table_name="comparisons")
    op.drop_table("comparisons")
    op.drop_index(op.f("ix_traces_weights_digest"), table_name="traces")
    op.drop_index(op.f("ix_traces_created_at"), table_name="traces")
    op.drop_table("traces")
    op.drop_table("snapshots")
    op.drop_index(
        "uq_runs_spec_in_flight",
        table_name="runs",
        postgresql_where=sa.text("state IN ('QUEUED','RUNNING') AND NOT cancel_requested"),
    )
    op.drop_index("ix_runs_spec_digest", table_name="runs")
    op.drop_index("ix_runs_queued", table_name="runs", postgresql_where=sa.text("state = 'QUEUED'"))
    op.drop_index("ix_runs_lease", table_name="runs", postgresql_where=sa.text("state = 'RUNNING'"))
    op.drop_table("runs")
    op.drop_table("prompt_sets")
    op.drop_table("models")
    op.drop_table("api_keys")
    op.execute("DROP FUNCTION spinal_refuse()")
