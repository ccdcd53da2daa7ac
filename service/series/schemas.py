"""Series on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.audits.schemas import DEFAULT_PROFILE, PolicyNamed, PolicyReference, QueueOut
from service.audits.schemas import State as AuditState
from service.http.addresses import local
from service.http.fields import PRINTABLE, Labels, Reference
from service.series.members import Added, MemberRequest
from service.series.verbs import SeriesView
from spinal.checkpoints.folders import MOST_CHECKPOINTS, MOST_STEP
from spinal.documents.series import SeriesSettings, Status
from spinal.policy.shipped import DEFAULT_POLICY
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import DEFAULT_SET

State = Literal["OPEN", "CLOSED", "CANCELLED"]
Step = Annotated[int, Field(ge=0, le=MOST_STEP, strict=True)]
Folder = Annotated[
    Reference,
    Field(
        description="A folder of checkpoints whose names end with their steps, or a pattern with wildcards in its last "
        f"part: ``local:runs/a/checkpoint-*``; {MOST_CHECKPOINTS} folders at most.",
        examples=["local:runs/a/checkpoint-*"],
    ),
]


class MemberIn(BaseModel):
    """One checkpoint of a training run."""

    model_config = ConfigDict(extra="forbid")

    step: Step
    model: Reference

    def request(self) -> MemberRequest:
        return MemberRequest(self.step, self.model)


Members = Annotated[list[MemberIn], Field(max_length=MOST_CHECKPOINTS)]


class MembersIn(BaseModel):
    """Checkpoints to append: listed, or a folder of them."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"members": [{"step": 200, "model": "local:a/checkpoint-200"}]}]},
    )

    members: Members = Field(default_factory=list)
    folder: Folder | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.members) == (self.folder is not None):
            raise ValueError("give members, or a folder")
        return self


class SeriesIn(BaseModel):
    """A training run to follow: what its checkpoints are compared with, and what they are judged by."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {"reference": "local:sft", "folder": "local:runs/a/checkpoint-*", "labels": {"run": "a"}},
            ]
        },
    )

    reference: Reference
    description: Annotated[str, StringConstraints(max_length=1024, pattern=PRINTABLE)] | None = None
    control: Reference | None = Field(
        default=None, description="A checkpoint to contrast every member with, for example an SFT twin."
    )
    prompt_set: Reference = Field(
        default=DEFAULT_SET, description="Name of a built-in set, or digest or name of a stored one."
    )
    profile: MeasurementProfile = Field(
        default_factory=MeasurementProfile,
        description=f"Name of a profile and the knobs that differ from its defaults; without a name {DEFAULT_PROFILE}.",
    )
    policy: PolicyReference | None = Field(
        default=None,
        description="Name and version, or digest, of the policy that judges members and series. "
        f"Without one {DEFAULT_POLICY}.",
    )
    settings: SeriesSettings = Field(default_factory=SeriesSettings)
    labels: Labels = Field(
        default_factory=dict,
        description="Shown with the series and, all but ``name``, with the audits of its members; to filter by.",
    )
    priority: Annotated[int, Field(ge=-10, le=10, strict=True)] = 0
    members: Members = Field(default_factory=list, description="The first members; others may follow.")
    folder: Folder | None = None

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.members and self.folder is not None:
            raise ValueError("give members, or a folder")
        return self


class MemberOut(BaseModel):
    """A member and its audit."""

    step: int
    model: str
    audit: UUID
    state: AuditState = Field(description="Of its audit.")
    fresh: bool = Field(description="False where the series had it already.")

    @classmethod
    def of(cls, added: Added) -> Self:
        member = added.member
        return cls(
            step=member.step,
            model=member.model,
            audit=member.audit_id,
            state=member.state,  # a CHECK constraint holds it to the literal
            fresh=added.fresh,
        )


class MembersOut(BaseModel):
    items: list[MemberOut] = Field(description="What was asked for, by step.")


class MemberCounts(BaseModel):
    waiting: int = Field(description="Queued or running.")
    measured: int
    failed: int
    cancelled: int
    total: int


class SeriesLinks(BaseModel):
    self: str
    members: str
    audits: str
    document: str
    report: str
    page: str = Field(description="For people: the series in a browser, behind a session.")
    close: str
    cancel: str


class SeriesOut(BaseModel):
    """A series, and what its members say so far."""

    id: UUID
    state: State
    description: str | None
    reference: str
    control: str | None
    prompt_set: str = Field(description="Name of a built-in set, or digest.")
    profile: dict[str, Any]
    policy: PolicyNamed
    settings: SeriesSettings
    labels: dict[str, str]
    priority: int
    members: MemberCounts
    assessed: bool = Field(
        description="Whether what follows knows all that has happened; a list tells what was worked out last."
    )
    status: Status | None = Field(description="Null in a list until it has been worked out once.")
    onset_step: int | None
    worse_from_step: int | None
    first_alarm_step: int | None
    first_warning_step: int | None
    alarmed: list[str]
    warned: list[str]
    reasons: list[str]
    queue: QueueOut | None = Field(
        description="Where the first member stands that waits; null while none is going, and in lists."
    )
    links: SeriesLinks
    created_at: datetime
    closed_at: datetime | None

    @classmethod
    def of(cls, view: SeriesView) -> Self:
        series, told = view.series, view.summary or {}
        states = series.states
        state: State = "CANCELLED" if series.cancelled_at else "CLOSED" if series.closed_at else "OPEN"
        here = local(f"/v1/series/{series.id}")
        return cls(
            id=series.id,
            state=state,
            description=series.description,
            reference=series.reference,
            control=series.spec["control"],
            prompt_set=series.spec["prompt_set"],
            profile=series.spec["profile"],
            policy=PolicyNamed(name=series.spec["policy"], digest=series.policy),
            settings=SeriesSettings.model_validate(series.settings),
            labels=series.labels,
            priority=series.spec["priority"],
            members=MemberCounts(
                waiting=states.get("QUEUED", 0) + states.get("RUNNING", 0),
                measured=states.get("SUCCEEDED", 0),
                failed=states.get("FAILED", 0),
                cancelled=states.get("CANCELLED", 0),
                total=sum(states.values()),
            ),
            assessed=view.current,
            status=told.get("status"),
            onset_step=told.get("onset_step"),
            worse_from_step=told.get("worse_from_step"),
            first_alarm_step=told.get("first_alarm_step"),
            first_warning_step=told.get("first_warning_step"),
            alarmed=list(told.get("alarmed", ())),
            warned=list(told.get("warned", ())),
            reasons=list(told.get("reasons", ())),
            queue=None if view.standing is None else QueueOut.of(view.standing),
            links=SeriesLinks(
                self=here,
                members=f"{here}/members",
                audits=local(f"/v1/audits?series={series.id}"),
                document=f"{here}/document",
                report=f"{here}/report",
                page=local(f"/ui/series/{series.id}"),
                close=f"{here}/close",
                cancel=f"{here}/cancel",
            ),
            created_at=series.created_at,
            closed_at=series.closed_at,
        )


class SeriesPageOut(BaseModel):
    items: list[SeriesOut]
    next: str | None = Field(description="Cursor of the next page; null on the last.")
