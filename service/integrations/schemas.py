"""Registries on the wire."""

from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, Field

from service.http.addresses import local
from service.integrations.store import StoredVersion
from service.integrations.verbs import Outcome, RegistryView
from service.runs.held import without_hosts
from spinal.documents.comparison import Outcome as VerdictOutcome

VersionState = Literal["waiting", "refused", "past", "queued", "running", "succeeded", "failed", "cancelled", "deleted"]


class ChosenOut(BaseModel):
    model: str
    version: str
    rule: str
    fresh: bool = Field(description="False where an audit of it was asked for before.")


class EventOut(BaseModel):
    """What became of an event. The audit is made behind the answer."""

    registry: str
    delivery: str = Field(description="Id of the event, or what stands for one.")
    type: str
    outcome: Literal["accepted", "ignored", "test", "pending"]
    reason: str | None = Field(description="Why nothing comes of it.")
    versions: list[ChosenOut] = Field(description="Versions that rules chose.")
    repeated: bool = Field(description="Whether this is the answer that was given when the same event first came.")

    @classmethod
    def of(cls, outcome: Outcome) -> Self:
        versions = [ChosenOut(**vars(each)) for each in outcome.versions]
        return cls(**{**vars(outcome), "versions": versions})


class RuleOut(BaseModel):
    name: str
    model: str
    when: str = Field(description="By what it chooses versions.", examples=["alias candidate", "new versions"])
    reference: str
    policy: str | None
    prompt_set: str


class RegistryOut(BaseModel):
    """A registry of the caller's tenant, as an operator set it up, and what has come of it."""

    name: str
    kind: str
    write_back: bool
    poll_every_s: float | None = Field(description="Null where it cannot be asked.")
    rules: list[RuleOut]
    last_event_at: datetime | None
    last_event: str | None = Field(description="Its type.")
    last_outcome: str | None
    polled_at: datetime | None = Field(description="When it was last looked through without an error.")
    poll_problem: dict[str, Any] | None = Field(description="What the last poll met.")
    versions: dict[str, int] = Field(description="How many versions are in which state.")
    links: dict[str, str]

    @classmethod
    def of(cls, view: RegistryView) -> Self:
        registry, standing = view.registry, view.standing
        rules = [
            RuleOut(
                name=rule.name,
                model=rule.model,
                when=_when(rule.aliases, rule.tags, rule.stage),
                reference=rule.reference,
                policy=rule.policy,
                prompt_set=rule.prompt_set,
            )
            for rule in registry.rules
        ]
        return cls(
            name=view.name,
            kind=registry.kind,
            write_back=registry.write_back,
            poll_every_s=registry.interval_s,
            rules=rules,
            last_event_at=standing.last_event_at,
            last_event=standing.last_event,
            last_outcome=standing.last_outcome,
            polled_at=standing.polled_at,
            poll_problem=without_hosts(standing.poll_failure),
            versions=standing.states,
            links={"versions": local(f"/v1/integrations/{view.name}/versions")},
        )


def _when(aliases: tuple[str, ...], tags: dict[str, str], stage: str | None) -> str:
    if aliases:
        return f"alias {' or '.join(aliases)}"
    if tags:
        return f"tag {' or '.join(f'{key}={value}' for key, value in tags.items())}"
    return f"stage {stage}" if stage is not None else "new versions"


class RegistryPage(BaseModel):
    items: list[RegistryOut]
    next: str | None = Field(description="Cursor of the next page; null on the last.")


class VersionOut(BaseModel):
    """A version that a rule chose, and its audit."""

    id: UUID
    model: str
    version: str
    rule: str
    state: VersionState = Field(
        description="``waiting``: its audit is to be made. ``refused``: it cannot be. ``past``: it was there before "
        "the rule was first looked for. Else the state of its audit; ``deleted`` where that is gone."
    )
    verdict: VerdictOutcome | None
    audit: UUID | None
    problem: dict[str, Any] | None = Field(description="Why there is no audit, or none yet.")
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, stored: StoredVersion) -> Self:
        known = {name: value for name, value in vars(stored).items() if name not in ("audit_id", "problem")}
        links = {} if stored.audit_id is None else {"audit": local(f"/v1/audits/{stored.audit_id}")}
        return cls(**known, audit=stored.audit_id, problem=without_hosts(stored.problem), links=links)


class VersionPage(BaseModel):
    items: list[VersionOut]
    next: str | None = Field(description="Cursor of the next page; null on the last.")
