"""Rows of the queue: runs, what they wait for, their attempts, whose turn it is, and who carries them out."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from service.database.record import FORMER_SCHEME, NAME, NOW, STATES, Record

IN_LINE = "state = 'QUEUED' AND NOT waits AND NOT cancel_requested"
"""Of runs that wait for nothing but a worker, and perhaps for a time."""
LINE = ("queue", text("(- priority)"), "tenants")
"""Runs that are served one after the other, oldest first; which line goes first depends on the turns of its tenants."""


class RunRecord(Record):
    """One unit of worker work, shared by every audit that needs it."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(f"state IN ({STATES})", name="state"),
        CheckConstraint(f"kind ~ '{NAME}'", name="kind"),
        CheckConstraint("attempt >= 0", name="attempt"),
        CheckConstraint("(state = 'RUNNING') = (lease_until IS NOT NULL)", name="lease_while_running"),
        CheckConstraint("(state = 'SUCCEEDED') = (result_digest IS NOT NULL)", name="result_when_succeeded"),
        CheckConstraint("state <> 'FAILED' OR error IS NOT NULL", name="error_when_failed"),
        CheckConstraint(
            "(state IN ('SUCCEEDED','FAILED','CANCELLED')) = (finished_at IS NOT NULL)", name="finished_when_terminal"
        ),
        CheckConstraint(
            "state <> 'RUNNING' OR (worker IS NOT NULL AND deadline_at IS NOT NULL AND attempt > 0)",
            name="running_is_held",
        ),
        CheckConstraint("charged_attempts BETWEEN 0 AND attempt", name="charged"),
        # One run per spec that is wanted, from its start to ever after its success; one that is being given up no
        # longer counts, so that a new audit gets a fresh one. Whatever shares a comparison shares its traces with it.
        Index(
            "uq_runs_spec_wanted",
            "spec_digest",
            unique=True,
            postgresql_where=text("state IN ('QUEUED','RUNNING','SUCCEEDED') AND NOT cancel_requested"),
        ),
        Index("ix_runs_spec_digest", "spec_digest"),
        Index("ix_runs_result_digest", "result_digest"),
        Index(
            "ix_runs_queued", "queue", text("priority DESC"), "created_at", postgresql_where=text("state = 'QUEUED'")
        ),
        Index("ix_runs_lease", "lease_until", postgresql_where=text("state = 'RUNNING'")),
        # What counting for metrics reads: what waits by its age, and what has ended since it was counted last.
        Index("ix_runs_waiting", "queue", "created_at", "not_before", postgresql_where=text(IN_LINE)),
        Index("ix_runs_ended", "finished_at", "queue", "state", postgresql_where=text("finished_at IS NOT NULL")),
        Index(
            "ix_runs_to_ring",
            *LINE,
            text("GREATEST(created_at, not_before)"),
            "created_at",
            "id",
            postgresql_where=text(f"{IN_LINE} AND rung_at IS NULL"),
        ),
        Index(
            "ix_runs_to_claim",
            *LINE,
            "created_at",
            "id",
            postgresql_where=text(f"{IN_LINE} AND rung_at IS NOT NULL"),
        ),
        # Other words than those above: a look for what to claim, without statistics, must not come here.
        Index("ix_runs_rung", "queue", "rung_at", postgresql_where=text("state = 'QUEUED' AND rung_at > '-infinity'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    spec: Mapped[dict[str, Any]]
    spec_digest: Mapped[str]
    scheme: Mapped[str] = mapped_column(server_default=FORMER_SCHEME)
    """Under which its digests were made (``spinal.documents.canonical``)."""
    depth: Mapped[int | None]
    """``specs.depth`` of the specification; null in runs that the release before made."""
    spec_version: Mapped[int] = mapped_column(server_default=text("1"))
    """What a worker has to know to carry it out (``Kind.version_of``); an older one leaves it alone."""
    queue: Mapped[str]
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    """Higher runs first."""
    tenants: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    """For whom it was asked for, sorted: its turn is that of any of them. A trigger fills in for code from before."""
    waits: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    """For another run that has not succeeded. Kept by triggers."""
    turn_of: Mapped[str | None]
    """The tenant at whose turn it was claimed last. Kept by a trigger, as are the next two."""
    turn_at: Mapped[datetime | None]
    """``turns.served_at`` as that claim wrote it; null where another claim was writing it at that moment."""
    turn_before: Mapped[datetime | None]
    """What it was before; null where there was none."""
    state: Mapped[str] = mapped_column(server_default=text("'QUEUED'"))
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    """Grows with every claim; every write of a worker carries it (the fence)."""
    charged_attempts: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts that count towards the cap; a graceful release is not charged."""
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]
    not_before: Mapped[datetime] = mapped_column(server_default=NOW)
    rung_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    """Nobody wants it any more: a running one is to stop, and no later request shares it."""
    progress: Mapped[dict[str, Any] | None]
    result_digest: Mapped[str | None]
    error: Mapped[dict[str, Any] | None]
    traceparent: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class TurnRecord(Record):
    """When a tenant was last served in a queue: the one that was served longest ago is next."""

    __tablename__ = "turns"
    __table_args__ = (Index("ix_turns_served", "queue", "served_at"),)

    queue: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(primary_key=True)
    served_at: Mapped[datetime]
    """By the clock of the database, and later than every other turn in the queue."""


class RunDependencyRecord(Record):
    """``run`` may start once ``depends_on`` has succeeded."""

    __tablename__ = "run_dependencies"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    depends_on: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), primary_key=True, index=True)


class RunAttemptRecord(Record):
    """History of every claim of a run and how it ended."""

    __tablename__ = "run_attempts"
    __table_args__ = (
        CheckConstraint(
            "outcome IS NULL OR outcome IN ('succeeded','failed','cancelled','released','lost','retry')",
            name="outcome",
        ),
        CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name="ended"),
        Index("uq_run_attempts_succeeded", "run_id", unique=True, postgresql_where=text("outcome = 'succeeded'")),
        Index("ix_run_attempts_ended", "ended_at"),
        Index(
            "ix_run_attempts_refused",
            "refused_writes",
            "refused_beats",
            postgresql_where=text("refused_writes > 0 OR refused_beats > 0"),
        ),
    )

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    error: Mapped[dict[str, Any] | None]
    refused_writes: Mapped[int] = mapped_column(server_default=text("0"))
    """Results and other ends that came after the attempt had been taken away, all refused."""
    refused_beats: Mapped[int] = mapped_column(server_default=text("0"))
    """Heartbeats that came after it, refused as well."""


class WorkerRecord(Record):
    """A worker that says now and then that it is there. For operators, and to tell callers whether anybody takes what
    waits; its name says on which host it is, and reaches no tenant. Workers of the release before have no row."""

    __tablename__ = "workers"
    __table_args__ = (CheckConstraint("children >= 0", name="children"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    """One for each start of a worker."""
    name: Mapped[str]
    queues: Mapped[list[Any]]
    """Names of the queues that it takes runs from."""
    children: Mapped[int]
    """So many runs it carries out at once."""
    device: Mapped[str]
    version: Mapped[str]
    knows: Mapped[dict[str, Any]]
    """Kind -> newest version of its specifications that it carries out."""
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
