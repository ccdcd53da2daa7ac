"""From a request to what has to be measured: checkpoints that were looked at, prompts, specifications of runs."""

import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from service.audits import store
from service.database.unit_of_work import Ledger
from service.models.meanings import Meant, read_meaning
from service.policies.store import StoredPolicy
from service.policies.verbs import read_policy
from service.prompt_sets.store import find_prompt_set
from service.runs.demand import COMPARE
from service.runs.held import OWN_NAMES
from service.runs.specs import SIDES, compare_spec, spec_digest, trace_spec
from service.settings import Settings
from service.traces.store import tenant_has_result
from spinal.analysis.compare import comparison_digest
from spinal.attestations.keys import read_public_key
from spinal.attestations.signed_models import read_signature
from spinal.checkpoints.bounded import Inspectors
from spinal.checkpoints.identity import require_expected
from spinal.checkpoints.survey import REFERENCE, Surveyed
from spinal.documents.canonical import digest_of
from spinal.documents.editions import PRESENT
from spinal.documents.evidence import SettingDifference
from spinal.documents.trace import Reading, trace_digest
from spinal.errors import NotReady, UsageError
from spinal.policy.shipped import DEFAULT_POLICY
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import BUILTIN_SETS, builtin_prompts
from spinal.prompts.sets import PromptSet

CANDIDATE = "candidate"


@dataclass(frozen=True)
class AuditRequest:
    """What a caller asks, as accepted."""

    models: dict[str, str]
    """References or names of checkpoints by role (``SIDES``); a candidate always. Where there is a reference, it is
    what all others are compared with."""
    prompt_set: str
    profile: MeasurementProfile
    weights_digests: dict[str, str] = field(default_factory=dict)
    """The content that the caller expects, by role."""
    signature: str | None = None
    """A bundle in which somebody has signed the candidate's files, as JSON."""
    meant: dict[str, Meant] = field(default_factory=dict)
    """What names stood for when they were looked at before, by role; the others are looked at now."""
    policy: str | None = None
    """Name and version, or digest; None for the one that ships."""
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    """What the caller sent, without defaults: a repeated request is the same one under a later release, too."""
    spelled_out: dict[str, Any] = field(default_factory=dict)
    """The same with every default of this release: what the first release told requests apart by."""


@dataclass(frozen=True)
class Resolved:
    """What the request was resolved to."""

    prompts: PromptSet
    specs: dict[str, dict[str, Any]]
    """Run specifications by role: those of the checkpoints, and with a reference ``compare``."""
    summary: dict[str, Any]
    policy: StoredPolicy | None
    """What the verdict is made by; None without a reference."""
    expected: dict[str, str] = field(default_factory=dict)
    """Digests of the results by role, where what every checkpoint holds is known ahead of reading it; else empty."""
    missing_bytes: int = 0
    """Of weights, that would have to be fetched to measure what is not known; what several sides need once."""


def resolve_request(
    ledger: Ledger, settings: Settings, inspectors: Inspectors, tenant: str, request: AuditRequest
) -> Resolved:
    """Check everything that a second can tell; raises the errors of checkpoints, prompts and pairs."""
    policy = _policy(ledger, tenant, request) if REFERENCE in request.models else None
    signed = None if request.signature is None else _signed(settings, tenant, request.signature)
    meant = {
        role: request.meant.get(role) or read_meaning(ledger, tenant, named) for role, named in request.models.items()
    }
    references = {role: each.reference for role, each in meant.items()}
    checkpoints = inspectors.survey(references, settings.reach_of(tenant))
    _require_expected(request, checkpoints)
    prompts = read_prompts(ledger, tenant, request.prompt_set)
    owner, profile = settings.owner_of_work(tenant), request.profile
    specs = {
        role: trace_spec(
            model=checkpoint.source,
            snapshot=checkpoint.content_snapshot,
            files=_files(settings, checkpoint),
            prompt_set=prompts.digest,
            profile=profile,
            tenant=owner,
            weights_digest=request.weights_digests.get(role),
            read=checkpoint.read,
            signed=signed if role == CANDIDATE else None,
        )
        for role, checkpoint in checkpoints.items()
    }
    described = {
        role: _described(checkpoint, specs[role], meant[role].registered) for role, checkpoint in checkpoints.items()
    }
    if REFERENCE in specs:
        specs[COMPARE] = compare_spec(dict(specs), profile=profile, tenant=owner)
    summary = (
        dict.fromkeys(SIDES)
        | described
        | {
            "prompt_set": {"digest": prompts.digest, "name": prompts.name, "count": len(prompts)},
            OWN_NAMES: True,
            "policy": None if policy is None else {"name": policy.name, "digest": policy.digest},
            "fingerprint": profile.fingerprint,
            "comparison_fingerprint": profile.comparison_fingerprint,
        }
    )
    missing = {name: size for checkpoint in checkpoints.values() for name, size in checkpoint.missing.items()}
    return Resolved(
        prompts,
        specs,
        summary,
        policy,
        # What was signed is held to what is read: nobody else's result stands for that.
        {} if signed else _expected(checkpoints, specs, prompts, profile),
        sum(missing.values()),
    )


def _signed(settings: Settings, tenant: str, bundle: str) -> dict[str, Any]:
    """What a worker holds the candidate's files to. Raises ModelSignatureInvalid, ModelSignatureUntrusted."""
    try:
        trusted = [
            read_public_key(path.read_bytes(), f"{path.name} of SPINAL_MODEL_SIGNERS", of_models=True)
            for path in settings.signers_of(tenant)
        ]
    except (OSError, UsageError) as error:
        raise NotReady(
            "a key that may sign models cannot be read", hint="an operator sets SPINAL_MODEL_SIGNERS right"
        ) from error
    found = read_signature(bundle, trusted)
    return {"files": dict(found.files), "key": found.key}


def _require_expected(request: AuditRequest, checkpoints: dict[str, Surveyed]) -> None:
    """Raise WeightsDigestMismatch where a source declares another content than the caller expects: a worker would find
    it after a download."""
    for role, expected in request.weights_digests.items():
        found = checkpoints[role]
        if found.weights_digest is not None:
            require_expected(found.source, found.weights_digest, expected)


def _expected(
    checkpoints: dict[str, Surveyed], specs: dict[str, dict[str, Any]], prompts: PromptSet, profile: MeasurementProfile
) -> dict[str, str]:
    """What the results will be called, by role."""
    found: dict[str, str] = {}
    for role, checkpoint in checkpoints.items():
        if checkpoint.weights_digest is None:
            return {}
        reading = Reading(
            tokenizer=checkpoint.read.get("tokenizer", {}).get("sha256"), vocabulary=checkpoint.read.get("vocabulary")
        )
        found[role] = trace_digest(
            checkpoint.weights_digest, prompts.digest, profile.fingerprint, PRESENT.engine, reading
        )
    if COMPARE in specs:
        beside = [SettingDifference(**each) for each in checkpoints["candidate"].differences]
        found[COMPARE] = comparison_digest(
            found[REFERENCE], found["candidate"], profile, found.get("control"), settings=beside
        )
    return found


def _policy(ledger: Ledger, tenant: str, request: AuditRequest) -> StoredPolicy:
    return read_policy(ledger, tenant, DEFAULT_POLICY if request.policy is None else request.policy)


def read_prompts(ledger: Ledger, tenant: str, named: str) -> PromptSet:
    """A built-in prompt set, or the tenant's by digest or name; raises PromptSetNotFound."""
    if named in BUILTIN_SETS:
        return builtin_prompts(named)
    with ledger.read() as session:
        return find_prompt_set(session, tenant, named)


def _files(settings: Settings, checkpoint: Surveyed) -> str:
    """What this host says of the files, in the present one of the periods for which content is remembered."""
    if checkpoint.weights_digest is not None:
        # Its source says what it holds: nothing has to be read to know that it still does.
        return digest_of({"content": checkpoint.weights_digest})
    period = int(time.time() // settings.remember_digest_s)
    return digest_of({"files": checkpoint.host_identity, "period": period})


def _described(checkpoint: Surveyed, spec: dict[str, Any], registered: dict[str, str] | None) -> dict[str, Any]:
    return (
        ({} if registered is None else {"registered": registered})
        | {
            "source": checkpoint.source,
            "snapshot": spec["snapshot"],
            "architecture": checkpoint.architecture,
            "n_layers": checkpoint.n_layers,
            "hidden_size": checkpoint.hidden_size,
            "vocab_size": checkpoint.vocab_size,
            "adapter": checkpoint.adapter,
            "weights_digest": checkpoint.weights_digest,
            "remarks": list(checkpoint.remarks),
        }
        | ({"signed_by": spec["signed"]["key"]} if "signed" in spec else {})
    )


def find_former(ledger: Ledger, tenant: str, request: AuditRequest, resolved: Resolved) -> UUID | None:
    """The audit whose values rules on a former one would read, if this one were submitted now."""
    with ledger.read() as session:
        return store.find_former(session, tenant, request.labels, resolved.summary)


def cached_roles(ledger: Ledger, tenant: str, resolved: Resolved) -> dict[str, bool]:
    """Which of the needed results one of the tenant's audits holds already, by role. What others made is not told."""
    with ledger.read() as session:
        known = {role: store.has_result(session, tenant, spec_digest(spec)) for role, spec in resolved.specs.items()}
        for role, digest in resolved.expected.items():
            known[role] = known[role] or tenant_has_result(session, tenant, digest)
        return known
