"""Runs of kind ``compare``: compare the traces of two checkpoints, and of a control where one is named."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from service.runs.specs import spec_digest
from service.runs.transitions import dependency_results
from service.traces.store import load_trace, replace_capture, store_comparison
from spinal.analysis.compare import compare
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.documents.base import Provenance
from spinal.documents.capture import load_capture
from spinal.documents.comparison import SCORER_VERSION, Comparison
from spinal.documents.evidence import PairEvidence
from spinal.documents.provenance import make_provenance
from spinal.documents.trace import ENGINE_VERSION, Trace
from spinal.profile import MeasurementProfile
from spinal.progress import Progress
from spinal.prompts.sets import PromptSet
from worker.job import Job
from worker.kinds.inputs import kept_capture, measure_and_put, require_version, stored_prompts, submitted_checkpoint


def carry_out(job: Job) -> None:
    """Compare what the runs that this one waited for have measured."""
    started = time.monotonic()
    spec = job.spec
    require_version("scorer", spec["scorer_version"], SCORER_VERSION)
    profile = MeasurementProfile.model_validate(spec["profile"])
    sides = [spec["reference"], spec["candidate"]]
    if spec.get("control") is not None:
        sides.append(spec["control"])
    prompts = stored_prompts(job, sides[0])
    checkpoints = [submitted_checkpoint(job, side) for side in sides]
    traces = _traces_of(job, sides)
    uris = [_capture(job, trace, c, prompts) for trace, c in zip(traces, checkpoints, strict=True)]
    with ExitStack() as copies:
        captures = [copies.enter_context(job.artifacts.local_copy(uri)) for uri in uris]
        evidence = _gather(job, checkpoints, captures, prompts, profile)
        job.report(Progress("statistics", 0, 1, 1.0))
        comparison = _compared(traces, captures, evidence, profile, _provenance(job, evidence, profile, started))
    job.finish(comparison.digest, lambda session: store_comparison(session, comparison))


def _traces_of(job: Job, sides: Sequence[dict[str, Any]]) -> list[Trace]:
    def read(session: Session) -> list[Trace]:
        results = dependency_results(session, job.claim.run_id)
        return [load_trace(session, results[spec_digest(side)]) for side in sides]

    return job.read(read)


def _capture(job: Job, trace: Trace, checkpoint: Checkpoint, prompts: PromptSet) -> str:
    """Where the trace's capture lies; one that was deleted or cut off is measured again, here."""
    kept = kept_capture(job, trace.digest)
    if kept is not None:
        return kept
    require_version("engine", trace.engine.version, ENGINE_VERSION)
    _, uri, size = measure_and_put(job, checkpoint, prompts, trace.measurement_profile(), trace.digest)
    job.write_fenced(lambda session: replace_capture(session, trace.digest, uri, size))
    return uri


def _gather(
    job: Job,
    checkpoints: Sequence[Checkpoint],
    captures: Sequence[Path],
    prompts: PromptSet,
    profile: MeasurementProfile,
) -> PairEvidence:
    """What only the weights of both can tell: the engine's part of a comparison."""
    return job.engine.gather_evidence(
        checkpoints[0],
        checkpoints[1],
        reference_capture=captures[0],
        candidate_capture=captures[1],
        prompts=prompts,
        profile=profile,
        device=job.settings.device,
        stream=job.settings.stream_weights,
        progress=job.report,
        cancelled=job.should_stop,
    )


def _provenance(job: Job, evidence: PairEvidence, profile: MeasurementProfile, started: float) -> Provenance:
    return make_provenance(
        device=evidence.device,
        dtype=evidence.dtype,
        threads=job.settings.torch_threads,
        seed=profile.seed,
        command=job.command,
        started=started,
    )


def _compared(
    traces: Sequence[Trace],
    captures: Sequence[Path],
    evidence: PairEvidence,
    profile: MeasurementProfile,
    provenance: Provenance,
) -> Comparison:
    """The analysis: reference, candidate and, where there is a third, the control."""
    return compare(
        traces[0],
        load_capture(captures[0]),
        traces[1],
        load_capture(captures[1]),
        evidence,
        profile,
        provenance,
        control=(traces[2], load_capture(captures[2])) if len(traces) > 2 else None,
    )
