"""Runs of kind ``compare``: compare the traces of two checkpoints, and of a control where one is named."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from sqlalchemy.orm import Session

from service.runs.specs import SIDES, needs, spec_digest
from service.runs.transitions import dependency_results
from service.traces.store import StoredCapture, has_comparison, load_trace, replace_capture, store_comparison
from spinal.analysis.compare import comparison_digest
from spinal.audit import Traced, compare_traces
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.documents.trace import Trace
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from worker.job import Job
from worker.kinds.inputs import (
    kept_capture,
    may_be_shared,
    measure_and_put,
    require_version,
    stored_prompts,
    submitted_checkpoint,
)


def carry_out(job: Job) -> None:
    """Compare what the runs that this one waited for have measured."""
    started = time.monotonic()
    spec = job.spec
    require_version("scorer", spec["scorer_version"], job.edition.scorer)
    profile = MeasurementProfile.model_validate(spec["profile"])
    needed = needs(spec)
    sides = [needed[role] for role in SIDES if role in needed]
    prompts = stored_prompts(job, sides[0])
    checkpoints = [submitted_checkpoint(job, side) for side in sides]
    traces = _traces_of(job, sides)
    known = _digest(traces, profile, job)
    if may_be_shared(job, known) and job.read(lambda session: has_comparison(session, known)):
        # Its traces were just found to be those of the files as they are.
        job.finish(known)
        return
    kept = [_capture(job, trace, c, prompts) for trace, c in zip(traces, checkpoints, strict=True)]
    with ExitStack() as copies:
        captures = [copies.enter_context(job.artifacts.local_copy(each.uri, each.sha256)) for each in kept]
        sides_traced = [Traced(*side) for side in zip(traces, captures, checkpoints, strict=True)]
        comparison = compare_traces(
            sides_traced[0],
            sides_traced[1],
            profile,
            ports=job.ports,
            prompts=prompts,
            control=sides_traced[2] if len(sides_traced) > 2 else None,
            started=started,
        )
    job.finish(comparison.digest, lambda session: store_comparison(session, comparison))


def _traces_of(job: Job, sides: Sequence[dict[str, Any]]) -> list[Trace]:
    def read(session: Session) -> list[Trace]:
        results = dependency_results(session, job.claim.run_id)
        return [load_trace(session, results[spec_digest(side)]) for side in sides]

    return job.read(read)


def _digest(traces: Sequence[Trace], profile: MeasurementProfile, job: Job) -> str:
    reference, candidate, *control = (trace.digest for trace in traces)
    return comparison_digest(reference, candidate, profile, *control, edition=job.edition)


def _capture(job: Job, trace: Trace, checkpoint: Checkpoint, prompts: PromptSet) -> StoredCapture:
    """The trace's capture; one that was deleted, cut off or altered is measured again, here."""
    kept = kept_capture(job, trace.digest)
    if kept is not None:
        return kept
    require_version("engine", trace.engine.version, job.edition.engine)
    _, made = measure_and_put(job, checkpoint, prompts, trace.measurement_profile(), trace.digest)
    job.write_fenced(lambda session: replace_capture(session, made))
    return made
