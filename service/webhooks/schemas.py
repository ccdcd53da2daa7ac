"""Webhooks on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.http.fields import PRINTABLE, Labels, Reference
from service.webhooks.filters import PATTERNS
from service.webhooks.store import FAILING_FOR_S, Told
from service.webhooks.verbs import Shown

Url = Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=r"^[\x21-\x7e]*$")]
Description = Annotated[str, StringConstraints(max_length=2000, pattern=PRINTABLE)]
Pattern = Literal[PATTERNS]  # type: ignore[valid-type]  # a table of ours, which mypy does not look into
Patterns = Annotated[
    list[Pattern],
    Field(
        min_length=1,
        max_length=len(PATTERNS),
        description="Types of events, groups (``audit.*``), or ``*``. Tests (``webhook.test``) come in any case.",
    ),
]
ADDRESS = "Where events are sent: https, at a public address, unless an operator lists the host as private."
LONGEST_OVERLAP_S = 7 * 86_400
DAYS = round(FAILING_FOR_S / 86_400)


class Filters(BaseModel):
    """What an event has to be of; what is left out narrows nothing."""

    model_config = ConfigDict(extra="forbid")

    verdicts: Annotated[list[Literal["pass", "warn", "fail", "inconclusive"]], Field(max_length=4)] = Field(
        default_factory=list, description="Outcomes of audits; one that ended without a verdict is then not told of."
    )
    labels: Labels = Field(default_factory=dict, description="All of them have to be on the audit or the series.")
    models: Annotated[list[Reference], Field(max_length=32)] = Field(
        default_factory=list, description="One of them has to be candidate or reference, written as it was submitted."
    )


class WebhookIn(BaseModel):
    """Where to be told of what happens."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"url": "https://hooks.example.org/spinal", "events": ["audit.*"], "filters": {"verdicts": ["fail"]}}
            ]
        },
    )

    url: Url = Field(description=ADDRESS)
    events: Patterns = Field(default_factory=lambda: ["*"])
    filters: Filters = Field(default_factory=Filters)
    description: Description | None = None
    signature: Literal["v1", "v1a"] = Field(
        default="v1", description="``v1``: HMAC-SHA256, by a secret that both sides have. ``v1a``: Ed25519, by a key."
    )


class WebhookChanges(BaseModel):
    """What of a webhook can change: whatever is sent takes the place of what was there."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1, "examples": [{"enabled": True}]})

    url: Url = Field(default="", description=ADDRESS)
    events: Patterns = Field(default_factory=lambda: ["*"])
    filters: Filters = Field(default_factory=Filters)
    description: Description | None = None
    enabled: bool = Field(default=True, description="False ends what waits for it; true forgets what it failed before.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one member")
        return self


class RotationIn(BaseModel):
    """For how long the present secret signs, too."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"overlap_s": 86400}]})

    overlap_s: int = Field(default=86_400, ge=0, le=LONGEST_OVERLAP_S, strict=True)
    generation: Annotated[int, Field(ge=1, lt=2**31, strict=True)] | None = Field(
        default=None,
        description="The generation that is to be replaced. Where it was replaced in the last ten minutes, as by the "
        "same request whose answer was lost, nothing changes and the new secret is shown; any other is refused.",
    )


class WebhookOut(BaseModel):
    """A webhook, without its secret."""

    id: UUID
    url: str
    events: list[str]
    filters: Filters
    description: str | None
    signature: Literal["v1", "v1a"]
    public_key: str | None = Field(description="``whpk_...``, which verifies what is signed by a key; null for v1.")
    former_public_key: str | None = Field(description="Of the key before, while it signs, too.")
    former_until: datetime | None = Field(description="Until when the secret before the last rotation signs, too.")
    generation: int = Field(description="Of its secret: grows with each rotation.")
    enabled: bool
    disabled_at: datetime | None
    disabled_why: str | None
    failing_since: datetime | None = Field(
        description=f"Since when nothing was taken. After {DAYS} days of it the webhook is disabled."
    )
    created_at: datetime

    @classmethod
    def of(cls, found: Shown) -> Self:
        return cls(**_members(found))


class WebhookMade(WebhookOut):
    """A webhook with its secret, which is shown this once."""

    secret: str | None = Field(description="``whsec_...``; null for v1a, whose public key is no secret.")

    @classmethod
    def of(cls, found: Shown) -> Self:
        return cls(**_members(found), secret=found.secret)


def _members(found: Shown) -> dict[str, Any]:
    webhook = found.webhook
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.events,
        # Of later code there may be more.
        "filters": {name: value for name, value in webhook.filters.items() if name in Filters.model_fields},
        "description": webhook.description,
        "signature": webhook.signature,
        "public_key": found.public_key,
        "former_public_key": found.former_public_key,
        "former_until": webhook.former_until if webhook.former_signs else None,
        "generation": webhook.generation,
        "enabled": webhook.disabled_at is None,
        "disabled_at": webhook.disabled_at,
        "disabled_why": webhook.disabled_why,
        "failing_since": webhook.failing_since,
        "created_at": webhook.created_at,
    }


class WebhookPage(BaseModel):
    items: list[WebhookOut] = Field(description="Newest first.")
    next: str | None


class TryOut(BaseModel):
    """One attempt."""

    attempt: int
    tried_at: datetime
    took_ms: int
    ok: bool
    status: int | None = Field(description="Of the answer; null where none came.")
    detail: str | None = Field(description="What went wrong. Nothing of an answer is kept but its status.")


class DeliveryOut(BaseModel):
    """One event told to one webhook."""

    id: UUID
    event: UUID = Field(description="Id of the event: the ``webhook-id`` of every attempt, sent again or not.")
    type: str
    subject: UUID = Field(description="Id of the audit, the series, or the webhook.")
    state: Literal["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"] = Field(
        description="Waiting for an attempt, being tried, taken, given up after the last attempt, or not sent any more."
    )
    sent_again: int = Field(description="How often somebody has had the event sent again before.")
    created_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None
    detail: str | None = Field(description="Why it ended without having been taken.")
    tries: list[TryOut] = Field(description="The last 20, oldest first.")

    @classmethod
    def of(cls, told: Told) -> Self:
        why = (told.error or {}).get("detail")
        if told.state == "CANCELLED":
            why = f"not sent any more: {told.disabled_why or 'the webhook was disabled, and is enabled again'}"
        return cls(
            id=told.id,
            event=told.event_id,
            type=told.type,
            subject=told.subject,
            state=told.state,
            sent_again=told.sent_again,
            created_at=told.created_at,
            finished_at=told.finished_at,
            next_attempt_at=told.next_attempt_at,
            detail=why,
            tries=[TryOut.model_validate(each) for each in told.tries],
        )


class DeliveryPage(BaseModel):
    items: list[DeliveryOut] = Field(description="Newest first.")
    next: str | None
