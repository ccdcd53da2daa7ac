"""Audits on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.audits.verbs import AuditView
from service.http.addresses import local
from service.http.fields import HEX, Labels, Reference
from service.runs.held import prompt_set_of, without_hosts
from service.runs.kinds import KINDS
from service.runs.lifecycle import IN_FLIGHT
from service.runs.specs import SIDES
from service.runs.standing import Standing
from spinal.documents.comparison import (
    Outcome,
)
from spinal.documents.policy import NAME
from spinal.policy.shipped import DEFAULT_POLICY
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import DEFAULT_SET

PolicyReference = Annotated[str, StringConstraints(pattern=f"{NAME}|{HEX}")]
Bundle = Annotated[str, StringConstraints(min_length=1, max_length=2**20, pattern=r"^[^\x00]*$")]
DEFAULT_PROFILE = MeasurementProfile().name
State = Literal["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]


class AuditIn(BaseModel):
    """What to audit: a candidate and, for a comparison, the reference that it came from."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {
                    "candidate": "local:dpo-short",
                    "reference": "local:sft",
                    "prompt_set": "hh-harmless-128",
                    "labels": {"release": "2026-11"},
                }
            ]
        },
    )

    candidate: Reference
    reference: Reference | None = Field(default=None, description="Without one, only the trace is made.")
    control: Reference | None = Field(
        default=None,
        description="A checkpoint to contrast the candidate with, for example an SFT twin; needs a reference.",
    )
    prompt_set: Reference = Field(
        default=DEFAULT_SET, description="Name of a built-in set, or digest or name of a stored one."
    )
    expected_weights_digest: Annotated[str, Field(pattern=HEX)] | None = Field(
        default=None,
        description="Weights digest that the candidate has to have; another one ends the audit with "
        "weights_digest_mismatch.",
    )
    signature: Bundle | None = Field(
        default=None,
        description="Text of `model.sig` (OpenSSF Model Signing), by a trusted key; other files are refused.",
    )
    profile: MeasurementProfile = Field(
        default_factory=MeasurementProfile,
        description=f"Name of a profile and the knobs that differ from its defaults; without a name {DEFAULT_PROFILE}.",
    )
    policy: PolicyReference | None = Field(
        default=None,
        description="Name and version, or digest, of the policy that makes the verdict; needs a reference. "
        f"Without one {DEFAULT_POLICY}. It changes no measurement: audits under different policies share their runs.",
    )
    labels: Labels = Field(
        default_factory=dict,
        description="Shown with the audit, and to filter by. Audits with the same label ``name`` are versions of one "
        "model: rules on values of a former audit read the last one before this.",
    )
    priority: Annotated[int, Field(ge=-10, le=10, strict=True)] = 0

    @model_validator(mode="after")
    def _a_control_needs_a_reference(self) -> Self:
        if self.control is not None and self.reference is None:
            raise ValueError("a control is read against a reference, and none was given")
        return self

    @model_validator(mode="after")
    def _a_policy_needs_a_reference(self) -> Self:
        if self.policy is not None and self.reference is None:
            raise ValueError("a policy judges a comparison with a reference, and none was given")
        return self

    def models(self) -> dict[str, str]:
        """What each role names, where it names one."""
        return {role: named for role in SIDES if (named := getattr(self, role)) is not None}

    def weights_digests(self) -> dict[str, str]:
        """The content that is expected, by role."""
        return {} if self.expected_weights_digest is None else {"candidate": self.expected_weights_digest}

    def spelled_out(self) -> dict[str, Any]:
        """Every member with the default that it had in the first release; without those that came later and are not
        used, so that releases from before know the request again."""
        later = {name for name in ("expected_weights_digest", "policy", "signature") if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=later) | {"profile": self.profile.spelled_out()}


def _name_kinds(schema: dict[str, Any]) -> None:
    """When the contract is written, not when this module is imported: all that are known by then."""
    known = ", ".join(f"``{name}``" for name in sorted(KINDS))
    schema["properties"]["runs"]["description"] = f"What the audit needs, by role. Kinds of run: {known}."


class StartsIn(BaseModel):
    """From when to when the run may start, in seconds, rounded to steps that a person would say: from how long recent
    runs of the queue took, and how many of them its workers carry out at once."""

    at_least_s: int
    at_most_s: int


class QueueOut(BaseModel):
    """Where an audit stands, by the first of its runs that waits for a worker."""

    name: str = Field(examples=["gpu"])
    workers: Literal["alive", "none", "unknown"] = Field(
        description="Whether a worker takes such runs of this queue. ``unknown``: none has said that it is alive, and "
        "one of the release before, which does not say so, may be there; within a minute that is ``none``, or it "
        "shows by what it does."
    )
    ahead: int | None = Field(
        description="At most so many runs go first: those of the caller's tenant that are older or of a higher "
        "priority, and of others as many as take turns with them, rounded up. null where no run waits for a worker: "
        "all are being carried out, or wait for those that are."
    )
    more: bool = Field(description="More than ``ahead`` go first; they are not counted further.")
    starts_in: StartsIn | None = Field(description="null where nothing is known of it.")
    summary: str | None = Field(
        description="The same in one line.", examples=["at most 5 before it, it starts within 2 min"]
    )

    @classmethod
    def of(cls, standing: Standing) -> Self:
        known = standing.at_least_s is not None and standing.at_most_s is not None
        return cls(
            name=standing.queue,
            workers=standing.workers,
            ahead=standing.ahead,
            more=standing.more,
            starts_in=StartsIn(at_least_s=standing.at_least_s or 0, at_most_s=standing.at_most_s or 0)
            if known
            else None,
            summary=standing.summary,
        )


class Progress(BaseModel):
    """Mean over the audit's runs; ``phase`` is that of the run furthest behind."""

    model_config = ConfigDict(json_schema_extra=_name_kinds)

    phase: str = Field(examples=["walk"])
    fraction: float = Field(ge=0, le=1)
    runs: dict[str, "RunProgress"]


class RunProgress(BaseModel):
    state: State
    attempt: int
    phase: str | None = None
    done: int | None = None
    total: int | None = None
    fraction: float = Field(ge=0, le=1)


class Links(BaseModel):
    self: str
    cancel: str
    candidate_trace: str | None
    reference_trace: str | None
    control_trace: str | None
    diff: str | None
    scores: str | None
    report: str | None
    page: str = Field(description="For people: the audit in a browser, behind a session.")


class PolicyNamed(BaseModel):
    name: str = Field(description="Name and version.")
    digest: str


class RegisteredOut(BaseModel):
    """A registered model as it was named, and what that meant when the audit was submitted."""

    name: str
    version: str
    alias: str | None = Field(default=None, description="Where it was named by one.")
    reference: str = Field(description="What that version is.")


class AuditOut(BaseModel):
    """An audit. ``verdict`` is null until a comparison is there, and for audits without a reference."""

    id: UUID
    state: State
    candidate: str
    reference: str | None
    control: str | None
    pinned: dict[str, str] = Field(
        description="What each reference meant when the audit was submitted, by role: a commit, a version, a folder."
    )
    registered: dict[str, RegisteredOut] = Field(
        description="Registered models that were named, by role, as they were when the audit was submitted."
    )
    prompt_set: dict[str, Any]
    fingerprint: str
    labels: dict[str, str]
    priority: int
    progress: Progress
    queue: QueueOut | None = Field(
        description="Where it stands; null once it has ended, and in lists. The ETag covers it, in steps that seldom "
        "change."
    )
    verdict: Outcome | None
    verdict_reasons: list[str]
    policy: PolicyNamed | None = Field(
        description="What the verdict is made by; null without a reference, and in audits of releases before policies."
    )
    decided_by: str | None = Field(description="The rule that decided the verdict; the scores list every rule.")
    former: UUID | None = Field(
        description="The audit that rules on former values read: the last with the same label ``name`` when this one "
        "was submitted."
    )
    series: UUID | None = Field(description="The series of which it is a member.")
    signed_by: str | None = Field(description="Id of the key of the signature that was sent, if one was.")
    weights: dict[str, str] = Field(description="Weights digests of everything that the verdict judges, by role.")
    error: dict[str, Any] | None = Field(description="A problem object when the audit failed.")
    candidate_trace: str | None
    reference_trace: str | None
    control_trace: str | None
    comparison: str | None
    results: dict[str, str] = Field(description="Digest of everything that has been made so far, by role.")
    links: Links
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, view: AuditView) -> Self:
        audit = view.audit
        return cls(
            id=audit.id,
            state=audit.state,  # a CHECK constraint holds it to the literal
            candidate=audit.candidate,
            reference=audit.reference,
            control=audit.control,
            pinned={role: side["source"] for role in SIDES if "source" in (side := audit.spec.get(role) or {})},
            registered=_registered(audit.spec),
            prompt_set=prompt_set_of(audit.spec),
            fingerprint=audit.spec["fingerprint"],
            labels=audit.labels,
            priority=audit.priority,
            progress=_progress(view),
            queue=None if view.standing is None else QueueOut.of(view.standing),
            verdict=audit.verdict,  # a CHECK constraint holds it to the literal
            verdict_reasons=[] if view.verdict is None else list(view.verdict.reasons),
            policy=audit.spec.get("policy"),
            decided_by=None if view.verdict is None else view.verdict.decided_by,
            former=audit.former,
            series=audit.series,
            signed_by=(audit.spec.get("candidate") or {}).get("signed_by"),
            weights={} if view.verdict is None else dict(view.verdict.weights),
            error=without_hosts(audit.error),
            candidate_trace=audit.candidate_trace,
            reference_trace=audit.reference_trace,
            control_trace=audit.control_trace,
            comparison=audit.comparison,
            results={role: run.result for role, run in sorted(view.audit.runs.items()) if run.result is not None},
            links=_links(view),
            created_at=audit.created_at,
            started_at=audit.started_at,
            finished_at=audit.finished_at,
        )


def _registered(spec: dict[str, Any]) -> dict[str, RegisteredOut]:
    """Of audits of the release before nothing is known."""
    found = {role: spec.get(role) or {} for role in SIDES}
    return {
        role: RegisteredOut(**side["registered"], reference=side["source"])
        for role, side in found.items()
        if "registered" in side
    }


def _progress(view: AuditView) -> Progress:
    runs = {}
    for role, run in sorted(view.audit.runs.items()):
        reported = run.progress or {}
        finished = run.state == "SUCCEEDED"
        runs[role] = RunProgress(
            state=run.state,  # a CHECK constraint holds it to the literal
            attempt=run.attempt,
            # The last report of a run comes before its last step, and a short run may end without any.
            phase="finished" if finished else reported.get("phase"),
            done=(reported.get("total") or 1) if finished else reported.get("done"),
            total=(reported.get("total") or 1) if finished else reported.get("total"),
            fraction=1.0 if finished else float(reported.get("fraction", 0.0)),
        )
    unfinished = [run for run in runs.values() if run.state in IN_FLIGHT]
    behind = min(unfinished, key=lambda run: (run.state != "RUNNING", run.fraction), default=None)
    phase = "finished" if behind is None else behind.phase or ("waiting" if behind.state == "QUEUED" else "starting")
    fraction = sum(run.fraction for run in runs.values()) / len(runs) if runs else 0.0
    return Progress(phase=phase, fraction=fraction, runs=runs)


def _links(view: AuditView) -> Links:
    audit = view.audit
    here = local(f"/v1/audits/{audit.id}")
    done = audit.state == "SUCCEEDED"
    both = audit.reference_trace is not None and audit.candidate_trace is not None
    return Links(
        self=here,
        cancel=f"{here}/cancel",
        candidate_trace=local(f"/v1/traces/{audit.candidate_trace}") if audit.candidate_trace else None,
        reference_trace=local(f"/v1/traces/{audit.reference_trace}") if audit.reference_trace else None,
        control_trace=local(f"/v1/traces/{audit.control_trace}") if audit.control_trace else None,
        diff=local(f"/v1/diffs/{audit.reference_trace}...{audit.candidate_trace}") if both else None,
        scores=f"{here}/scores" if done and audit.comparison else None,
        report=f"{here}/report" if done else None,
        page=local(f"/ui/audits/{audit.id}"),
    )


class AuditPage(BaseModel):
    items: list[AuditOut]
    next: str | None = Field(description="Cursor of the next page; null on the last.")


class ValidationOut(BaseModel):
    """What a request would do; nothing was written."""

    candidate: dict[str, Any]
    reference: dict[str, Any] | None
    control: dict[str, Any] | None
    prompt_set: dict[str, Any]
    fingerprint: str
    comparison_fingerprint: str
    policy: PolicyNamed | None = Field(description="What the verdict would be made by.")
    former: UUID | None = Field(description="The audit that rules on former values would read.")
    cached: dict[str, bool] = Field(description="Which results the tenant has already, by role.")
    runs_needed: int
    bytes_to_fetch: int = Field(
        description="Weights that live elsewhere and that workers would fetch, as far as this host does not hold them."
    )
