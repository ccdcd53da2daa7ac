"""Rows of the ledger. Text + CHECK instead of enums; UTC timestamps; JSONB only for specs, results, errors."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.database.event_tables import AttestationRecord as AttestationRecord
from service.database.event_tables import DeliveryRecord as DeliveryRecord
from service.database.event_tables import DeliveryTryRecord as DeliveryTryRecord
from service.database.event_tables import EventRecord as EventRecord
from service.database.event_tables import ReceivedEventRecord as ReceivedEventRecord
from service.database.event_tables import RegistryRuleRecord as RegistryRuleRecord
from service.database.event_tables import RegistryVersionRecord as RegistryVersionRecord
from service.database.event_tables import WebhookRecord as WebhookRecord
from service.database.event_tables import WeightsFilesRecord as WeightsFilesRecord
from service.database.model_tables import ModelAliasRecord as ModelAliasRecord
from service.database.model_tables import ModelRecord as ModelRecord
from service.database.model_tables import ModelVersionRecord as ModelVersionRecord
from service.database.record import EMPTY, FORMER_SCHEME, NAME, NOW, STATES
from service.database.record import Record as Record
from service.database.run_tables import RunAttemptRecord as RunAttemptRecord
from service.database.run_tables import RunDependencyRecord as RunDependencyRecord
from service.database.run_tables import RunRecord as RunRecord
from service.database.run_tables import TurnRecord as TurnRecord
from service.database.run_tables import WorkerRecord as WorkerRecord
from service.database.series_tables import SeriesMemberRecord as SeriesMemberRecord
from service.database.series_tables import SeriesRecord as SeriesRecord
from service.database.tenant_tables import ChoreRecord as ChoreRecord
from service.database.tenant_tables import DeletedTenantRecord as DeletedTenantRecord
from service.database.tenant_tables import LinkRevocationRecord as LinkRevocationRecord
from service.database.tenant_tables import TenantCountChangeRecord as TenantCountChangeRecord
from service.database.tenant_tables import TenantCountRecord as TenantCountRecord


class ApiKeyRecord(Record):
    """An API key ``spk_<id>_<secret>``; only HMACs of the secret are kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    secret_hmac: Mapped[str]
    """Of the secret alone: what code of the former release asks for."""
    bound_hmac: Mapped[str | None]
    """Over tenant, id and scopes, too; None in keys of the former release that have not been used since."""
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    description: Mapped[str | None]
    last_used_at: Mapped[datetime | None]
    """To the minute: processes of the API say it now and then, not with each request."""
    replaced_by: Mapped[str | None]
    """Id of the key that a rotation made in its place."""


class InstallationRecord(Record):
    """Which installation this is, in one row. Stores of captures are marked with it; a restored dump keeps it.
    Immutable."""

    __tablename__ = "installation"
    __table_args__ = (CheckConstraint("one", name="one"),)

    one: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    id: Mapped[UUID]


class SnapshotRecord(Record):
    """Content digest of a checkpoint's files by their cheap snapshot digest (names, sizes, times, headers)."""

    __tablename__ = "snapshots"

    snapshot_digest: Mapped[str] = mapped_column(primary_key=True)
    weights_digest: Mapped[str]
    scheme: Mapped[str] = mapped_column(server_default=FORMER_SCHEME)
    """Under which its digests were made (``spinal.documents.canonical``)."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class PromptSetRecord(Record):
    """Content of a prompt set that some run needs, by digest. ``name`` is that of a built-in set; what tenants call
    theirs stands in ``tenant_prompt_sets``."""

    __tablename__ = "prompt_sets"

    digest: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    prompts: Mapped[list[Any]]
    continuations: Mapped[list[Any]]
    later: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    """All members of a set that has more than prompts and continuations, of which both columns are then empty: code
    from before would read it without the others under its digest, and refuses an empty set."""
    count: Mapped[int]
    scheme: Mapped[str] = mapped_column(server_default=FORMER_SCHEME)
    """Under which its digests were made (``spinal.documents.canonical``)."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class TenantPromptSetRecord(Record):
    """A prompt set that a tenant has stored or asked for, and what the tenant calls it."""

    __tablename__ = "tenant_prompt_sets"
    __table_args__ = (Index("ix_tenant_prompt_sets_name", "tenant", "name", text("created_at DESC")),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(ForeignKey("prompt_sets.digest"), primary_key=True, index=True)
    name: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class PolicyRecord(Record):
    """A policy of a tenant: its own, or one that ships and that an audit of the tenant names. Immutable."""

    __tablename__ = "policies"
    __table_args__ = (
        # What ships is told apart by its release's code, and by its digest where a release was taken back.
        Index("uq_policies_tenant_name", "tenant", "name", unique=True, postgresql_where=text("name !~ '^spinal-'")),
        CheckConstraint("digest ~ '^[0-9a-f]{64}$'", name="digest"),
        CheckConstraint("name IS NOT DISTINCT FROM document->>'name'", name="name"),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    document: Mapped[dict[str, Any]]
    """``spinal.policy/1``, spelled out: the digest covers every member of it."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class TraceRecord(Record):
    """A finished trace: the whole document, and where its capture lies. Immutable."""

    __tablename__ = "traces"

    digest: Mapped[str] = mapped_column(primary_key=True)
    weights_digest: Mapped[str] = mapped_column(index=True)
    prompt_set_digest: Mapped[str]
    fingerprint: Mapped[str]
    engine_version: Mapped[str]
    source: Mapped[str]
    n_layers: Mapped[int]
    document: Mapped[dict[str, Any]]
    """``spinal.trace/1`` without ``layers``, which are rows of ``trace_layers``, and the members in ``later``."""
    later: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    """Members of the document that code from before does not know, and would refuse."""
    content_digest: Mapped[str]
    """sha256 of the whole document as JSON of the scheme ``python-json/1``: tells a torn or altered trace."""
    content_digest_rfc8785: Mapped[str | None]
    """The same under RFC 8785; null in rows of code from before."""
    scheme: Mapped[str] = mapped_column(server_default=FORMER_SCHEME)
    """Under which its digests were made (``spinal.documents.canonical``)."""
    capture_uri: Mapped[str | None]
    capture_bytes: Mapped[int | None] = mapped_column(BigInteger)
    capture_sha256: Mapped[str | None]
    """Of the capture's bytes; null in rows of code from before."""
    measured_again: Mapped[int] = mapped_column(server_default=text("0"))
    """How often its capture was not in the artifact store, and was made again."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW, index=True)


class TraceLayerRecord(Record):
    """One node of a trace under one position policy, as columns that can be queried."""

    __tablename__ = "trace_layers"
    __table_args__ = (CheckConstraint("policy IN ('last','all')", name="policy"),)

    trace_digest: Mapped[str] = mapped_column(ForeignKey("traces.digest"), primary_key=True)
    layer: Mapped[int] = mapped_column(Integer, primary_key=True)
    policy: Mapped[str] = mapped_column(primary_key=True)
    depth: Mapped[float]
    contraction: Mapped[float | None]
    contraction_se: Mapped[float | None]
    transport: Mapped[float | None]
    transport_se: Mapped[float | None]
    entropy: Mapped[float]
    effective_rank: Mapped[float | None]
    detail: Mapped[dict[str, Any]]
    """The remaining members of the position object of ``spinal.trace/1``."""


class ComparisonRecord(Record):
    """A finished comparison of two traces. Immutable."""

    __tablename__ = "comparisons"
    __table_args__ = (
        Index("ix_comparisons_pair", "reference_digest", "candidate_digest"),
        Index("ix_comparisons_candidate", "candidate_digest"),
    )

    digest: Mapped[str] = mapped_column(primary_key=True)
    reference_digest: Mapped[str] = mapped_column(ForeignKey("traces.digest"))
    candidate_digest: Mapped[str] = mapped_column(ForeignKey("traces.digest"))
    comparison_fingerprint: Mapped[str]
    document: Mapped[dict[str, Any]]
    """``spinal.comparison/1`` without the members in ``later``."""
    later: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    """Members of the document that code from before does not know, and would refuse."""
    content_digest_rfc8785: Mapped[str | None]
    """sha256 of the whole document under RFC 8785; null in rows of code from before."""
    scheme: Mapped[str] = mapped_column(server_default=FORMER_SCHEME)
    """Under which its digests were made (``spinal.documents.canonical``)."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AuditRecord(Record):
    """What one caller asked."""

    __tablename__ = "audits"
    __table_args__ = (
        CheckConstraint(f"state IN ({STATES})", name="state"),
        CheckConstraint("verdict IS NULL OR verdict IN ('pass','warn','fail','inconclusive')", name="verdict"),
        CheckConstraint(
            "(state IN ('SUCCEEDED','FAILED','CANCELLED')) = (finished_at IS NOT NULL)", name="finished_when_terminal"
        ),
        CheckConstraint("state <> 'FAILED' OR error IS NOT NULL", name="error_when_failed"),
        # Nobody deletes the policy that an audit names.
        ForeignKeyConstraint(
            ["tenant", "policy"], ["policies.tenant", "policies.digest"], name="fk_audits_tenant_policies"
        ),
        Index("ix_audits_tenant_created", "tenant", text("created_at DESC"), text("id DESC")),
        Index(
            "ix_audits_tenant_name",
            "tenant",
            text("(labels->>'name')"),
            text("created_at DESC"),
            text("id DESC"),
            postgresql_where=text("labels->>'name' IS NOT NULL"),
        ),
        *(
            Index(f"ix_audits_tenant_{column}", "tenant", column, text("created_at DESC"), text("id DESC"))
            for column in ("state", "verdict", "candidate", "reference", "policy")
        ),
        Index(
            "ix_audits_series",
            "series",
            text("created_at DESC"),
            text("id DESC"),
            postgresql_where=text("series IS NOT NULL"),
        ),
        Index("ix_audits_labels", "labels", postgresql_using="gin"),
        Index("ix_audits_open", "id", postgresql_where=text("state IN ('QUEUED','RUNNING')")),
        Index("ix_audits_former", "former", postgresql_where=text("former IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    candidate: Mapped[str]
    reference: Mapped[str | None]
    control: Mapped[str | None]
    request: Mapped[dict[str, Any]]
    """The request body as accepted."""
    spec: Mapped[dict[str, Any]]
    """What it was resolved to: snapshots, prompt set digest, profile, fingerprint."""
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    state: Mapped[str] = mapped_column(server_default=text("'QUEUED'"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    """Grows with every change that a caller can see (ETag)."""
    policy: Mapped[str | None]
    """Digest of the policy that its verdict is made by; null without a reference, and in rows of the release before."""
    former: Mapped[UUID | None] = mapped_column(ForeignKey("audits.id"))
    """The audit that rules on values of a former one read."""
    series: Mapped[UUID | None] = mapped_column(ForeignKey("series.id"))
    """The series of which it is a member."""
    verdict: Mapped[str | None]
    """The outcome alone, by which audits are listed."""
    verdict_document: Mapped[dict[str, Any] | None]
    """The whole verdict, with its rules; null in rows that the release before settled."""
    error: Mapped[dict[str, Any] | None]
    candidate_trace: Mapped[str | None] = mapped_column(ForeignKey("traces.digest"), index=True)
    reference_trace: Mapped[str | None] = mapped_column(ForeignKey("traces.digest"), index=True)
    control_trace: Mapped[str | None] = mapped_column(ForeignKey("traces.digest"), index=True)
    comparison: Mapped[str | None] = mapped_column(ForeignKey("comparisons.digest"), index=True)
    request_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class AuditRunRecord(Record):
    """Which runs an audit needs, and as what."""

    __tablename__ = "audit_runs"
    __table_args__ = (CheckConstraint(f"role ~ '{NAME}'", name="role"),)

    audit_id: Mapped[UUID] = mapped_column(ForeignKey("audits.id"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), index=True)


class IdempotencyRecord(Record):
    """The answer once given under an Idempotency-Key. Written in the transaction of the audit it answers."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        ForeignKeyConstraint(["audit_id"], ["audits.id"]),
        Index("ix_idempotency_keys_audit", "audit_id"),
        Index("ix_idempotency_keys_tenant_created", "tenant", "created_at"),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_digest: Mapped[str]
    """sha256 of the request, as JSON of the scheme ``python-json/1``."""
    body_digest_rfc8785: Mapped[str | None]
    """The same under RFC 8785; null in rows of code from before."""
    audit_id: Mapped[UUID]
    status: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
