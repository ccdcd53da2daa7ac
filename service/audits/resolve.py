"""From a request to what has to be measured: checkpoints that were looked at, prompts, specifications of runs."""

from dataclasses import dataclass, field
from typing import Any

from service.audits import store
from service.database.unit_of_work import Ledger
from service.models.verbs import resolve_model
from service.prompt_sets.store import find_prompt_set
from service.runs.specs import compare_spec, spec_digest, trace_spec
from service.settings import Settings
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.identity import snapshot_digest
from spinal.checkpoints.pair import check_pair
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import BUILTIN_SETS, builtin_prompts
from spinal.prompts.sets import PromptSet

OWN_NAMES = "own_names"
"""Member of ``audits.spec``: what has a name there is called so by the audit's own tenant. The release before wrote the
name that the first tenant had given a prompt set."""


@dataclass(frozen=True)
class AuditRequest:
    """What a caller asks, as accepted."""

    candidate: str
    reference: str | None
    prompt_set: str
    profile: MeasurementProfile
    control: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    """What the caller sent, without defaults: a repeated request is the same one under a later release, too."""
    spelled_out: dict[str, Any] = field(default_factory=dict)
    """The same with every default of this release: what the first release told requests apart by."""


@dataclass(frozen=True)
class Resolved:
    """What the request was resolved to."""

    candidate: Checkpoint
    reference: Checkpoint | None
    control: Checkpoint | None
    prompts: PromptSet
    specs: dict[str, dict[str, Any]]
    """Run specifications by role: candidate, and with a reference: reference, compare, and control where named."""
    summary: dict[str, Any]


def resolve_request(ledger: Ledger, settings: Settings, tenant: str, request: AuditRequest) -> Resolved:
    """Check everything that a second can tell; raises the errors of checkpoints, prompts and pairs."""
    candidate = resolve_model(ledger, settings, tenant, request.candidate)
    reference = control = None
    if request.reference is not None:
        reference = resolve_model(ledger, settings, tenant, request.reference)
        check_pair(reference, candidate)
        if request.control is not None:
            control = resolve_model(ledger, settings, tenant, request.control)
            check_pair(reference, control)
    prompts = _prompts(ledger, tenant, request.prompt_set)
    specs = {"candidate": _trace(candidate, prompts, request.profile)}
    if reference is not None:
        specs["reference"] = _trace(reference, prompts, request.profile)
        if control is not None:
            specs["control"] = _trace(control, prompts, request.profile)
        specs["compare"] = compare_spec(
            reference=specs["reference"],
            candidate=specs["candidate"],
            control=specs.get("control"),
            profile=request.profile,
        )
    summary = {
        "candidate": _described(candidate, specs["candidate"]),
        "reference": _described(reference, specs["reference"]) if reference is not None else None,
        "control": _described(control, specs["control"]) if control is not None else None,
        "prompt_set": {"digest": prompts.digest, "name": prompts.name, "count": len(prompts)},
        OWN_NAMES: True,
        "fingerprint": request.profile.fingerprint,
        "comparison_fingerprint": request.profile.comparison_fingerprint,
    }
    return Resolved(candidate, reference, control, prompts, specs, summary)


def _prompts(ledger: Ledger, tenant: str, named: str) -> PromptSet:
    if named in BUILTIN_SETS:
        return builtin_prompts(named)
    with ledger.read() as session:
        return find_prompt_set(session, tenant, named)


def _trace(checkpoint: Checkpoint, prompts: PromptSet, profile: MeasurementProfile) -> dict[str, Any]:
    return trace_spec(
        model=checkpoint.source, snapshot=snapshot_digest(checkpoint), prompt_set=prompts.digest, profile=profile
    )


def _described(checkpoint: Checkpoint, spec: dict[str, Any]) -> dict[str, Any]:
    shape = checkpoint.whole
    return {
        "source": checkpoint.source,
        "snapshot": spec["snapshot"],
        "architecture": shape.architecture,
        "n_layers": shape.n_layers,
        "hidden_size": shape.hidden_size,
        "vocab_size": shape.vocab_size,
        "adapter": checkpoint.base is not None,
    }


def cached_roles(ledger: Ledger, tenant: str, resolved: Resolved) -> dict[str, bool]:
    """Which of the needed results one of the tenant's audits holds already, by role. What others made is not told."""
    with ledger.read() as session:
        return {role: store.has_result(session, tenant, spec_digest(spec)) for role, spec in resolved.specs.items()}
