"""Rows of what has happened, and of whom it is told: events, webhooks, deliveries, and what registries told us."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, CheckConstraint, ForeignKey, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from service.database.record import EMPTY, NAME, NOW, Record

EVENT_TYPE = r"^[a-z]+(\.[a-z_]+)+$"


class EventRecord(Record):
    """Something that has happened to an audit or a series: the outbox. Triggers write it in the transaction in which it
    happens, whichever release's code that is (migration 0021)."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint(f"type ~ '{EVENT_TYPE}'", name="type"),
        CheckConstraint("subject_kind IN ('audit','registry_version','series','webhook')", name="subject_kind"),
        Index("ix_events_to_send_out", "seq", postgresql_where=text("sent_out_at IS NULL")),
        Index("ix_events_tenant_created", "tenant", text("created_at DESC"), text("id DESC")),
        Index("ix_events_subject", "subject"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True), unique=True)
    tenant: Mapped[str]
    type: Mapped[str]
    """``audit.succeeded``, ``series.status`` and so on (``service/deliveries/events.py``)."""
    subject_kind: Mapped[str]
    subject: Mapped[UUID]
    """Id of the audit, the series or the registry's version."""
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    """What was so at that moment, and need not be so any more."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    sent_out_at: Mapped[datetime | None]
    """When its deliveries were made; those of whoever came later are none of it."""


class WebhookRecord(Record):
    """Where a tenant wants to be told. Its secret is derived from the pepper, its id and ``generation``, not stored."""

    __tablename__ = "webhooks"
    __table_args__ = (
        CheckConstraint("signature IN ('v1','v1a')", name="signature"),
        CheckConstraint("(disabled_at IS NULL) = (disabled_why IS NULL)", name="disabled"),
        CheckConstraint("deleted_at IS NULL OR (disabled_at IS NOT NULL AND url = '')", name="deleted"),
        Index(
            "ix_webhooks_tenant_created",
            "tenant",
            text("created_at DESC"),
            text("id DESC"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    url: Mapped[str]
    description: Mapped[str | None]
    events: Mapped[list[Any]]
    """Types of events, or ``audit.*``."""
    filters: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    """What an audit or series has to be to be told of: verdicts, labels, models."""
    signature: Mapped[str] = mapped_column(server_default=text("'v1'"))
    generation: Mapped[int] = mapped_column(server_default=text("1"))
    """Grows with each rotation of its secret."""
    rotated_at: Mapped[datetime | None]
    former_until: Mapped[datetime | None]
    """Until then the former secret signs, too."""
    disabled_at: Mapped[datetime | None]
    disabled_why: Mapped[str | None]
    failing_since: Mapped[datetime | None]
    """When the first attempt failed behind which none was taken."""
    deleted_at: Mapped[datetime | None]
    """Its row stays for its deliveries, without its address, which may hold a secret."""
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class DeliveryRecord(Record):
    """One thing to be told to one place. A run of kind ``deliver`` carries it out, and its state is the delivery's."""

    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint(f"target ~ '{NAME}'", name="target"),
        CheckConstraint("(target = 'webhook') = (webhook_id IS NOT NULL)", name="webhook"),
        Index("ix_deliveries_tenant_created", "tenant", text("created_at DESC"), text("id DESC")),
        Index("ix_deliveries_webhook", "webhook_id", text("created_at DESC"), text("id DESC")),
        Index("ix_deliveries_event", "event_id"),
        Index("uq_deliveries_run", "run_id", unique=True),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    """Of event, target, place and how often it was sent again: what is to be told is told once."""
    event_id: Mapped[UUID] = mapped_column(ForeignKey("events.id"))
    target: Mapped[str]
    """A name of ``service/deliveries/targets.py``."""
    webhook_id: Mapped[UUID | None] = mapped_column(ForeignKey("webhooks.id"))
    place: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    """Where, for targets that are no webhook: the registry, the model and its version."""
    sent_again: Mapped[int] = mapped_column(server_default=text("0"))
    run_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class DeliveryTryRecord(Record):
    """What came of one attempt of a delivery, as the worker saw it. Immutable."""

    __tablename__ = "delivery_tries"

    delivery_id: Mapped[UUID] = mapped_column(ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    tried_at: Mapped[datetime] = mapped_column(server_default=NOW)
    took_ms: Mapped[int]
    ok: Mapped[bool] = mapped_column(Boolean)
    status: Mapped[int | None]
    """Of the HTTP answer; null where none came."""
    detail: Mapped[str | None]
    """What went wrong, in one line."""


class ReceivedEventRecord(Record):
    """A delivery of a registry that was taken, by which the same one is known when it comes again."""

    __tablename__ = "received_events"
    __table_args__ = (
        Index("ix_received_events_received", "received_at"),
        Index("ix_received_events_registry", "registry", text("received_at DESC")),
    )

    registry_name: Mapped[str] = mapped_column("registry", primary_key=True)
    delivery: Mapped[str] = mapped_column(primary_key=True)
    """Its id, or what stands for one (``service/integrations``)."""
    tenant: Mapped[str]
    body_digest: Mapped[str]
    type: Mapped[str]
    outcome: Mapped[str]
    """``pending``, or what became of it."""
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    received_at: Mapped[datetime] = mapped_column(server_default=NOW)


class RegistryVersionRecord(Record):
    """A version of a model in a registry that a rule asks an audit of, and that audit: one for each rule."""

    __tablename__ = "registry_versions"
    __table_args__ = (
        Index("ix_registry_versions_audit", "audit_id"),
        Index(
            "ix_registry_versions_to_do",
            "due_at",
            postgresql_where=text("audit_id IS NULL AND refused IS NULL AND NOT past"),
        ),
        Index("ix_registry_versions_tenant", "tenant", "registry", text("created_at DESC"), text("id DESC")),
    )

    registry_name: Mapped[str] = mapped_column("registry", primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    rule: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    id: Mapped[UUID] = mapped_column(unique=True, server_default=text("gen_random_uuid()"))
    past: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    """Whether it was there before the rule was first looked for: no audit is made unless an event asks for one."""
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    """By what it was chosen; why its audit is not made yet; what its rule's reference was pinned to."""
    audit_id: Mapped[UUID | None]
    refused: Mapped[dict[str, Any] | None]
    """The problem for which no audit was made, where that is final."""
    due_at: Mapped[datetime] = mapped_column(server_default=NOW)
    """When its audit is asked for, or asked for again."""
    tries: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class WeightsFilesRecord(Record):
    """The files of a checkpoint by name and sha256: what its weights digest is made of. Nobody's in particular: it is
    kept for as long as a trace of the content is. Immutable."""

    __tablename__ = "weights_files"

    weights_digest: Mapped[str] = mapped_column(primary_key=True)
    files: Mapped[dict[str, Any]]
    base: Mapped[str | None]
    """Weights digest of the checkpoint that an adapter adapts, which has a row of its own."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class RegistryRuleRecord(Record):
    """A rule whose registry a poll has looked through: from then on what it finds is new, as long as the rule selects
    the same."""

    __tablename__ = "registry_rules"
    __table_args__ = (Index("ix_registry_rules_tenant", "tenant"),)

    registry_name: Mapped[str] = mapped_column("registry", primary_key=True)
    rule: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    polled_at: Mapped[datetime | None]
    """When it was last looked through without an error."""
    failure: Mapped[dict[str, Any] | None]
    """The problem of the last poll, where it had one."""
    selection: Mapped[str | None]
    """Digest of what the rule selected when it was last looked through; null where that never was."""
    unseen: Mapped[list[Any] | None]
    """Models that no look has come to yet: what is there at their first one is the past, too."""


class AttestationRecord(Record):
    """A signed statement about an audit, as it was first given out. Immutable."""

    __tablename__ = "attestations"
    __table_args__ = (Index("ix_attestations_tenant", "tenant"),)

    audit_id: Mapped[UUID] = mapped_column(primary_key=True)
    predicate_type: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    statement: Mapped[dict[str, Any]]
    envelope: Mapped[dict[str, Any]]
    """DSSE."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
