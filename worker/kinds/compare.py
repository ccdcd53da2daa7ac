"""Runs of kind ``compare``: compare the traces of two checkpoints, and of a control where one is named."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from service.platform.artifacts import ArtifactStore
from service.runs.specs import SIDES, needs, spec_digest
from service.runs.transitions import dependency_results
from service.traces.store import (
    StoredCapture,
    has_comparison,
    load_trace,
    replace_capture,
    store_comparison,
    stored_capture,
)
from spinal.analysis.compare import comparison_digest
from spinal.audit import Traced, compare_traces
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.settings import setting_differences
from spinal.documents.evidence import SettingDifference
from spinal.documents.trace import Trace
from spinal.errors import CaptureMissing
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from worker.job import Job
from worker.kinds.inputs import (
    discarding,
    may_be_shared,
    measure_and_put,
    profile_of,
    require_version,
    say_lost,
    stored_prompts,
    submitted,
)


def carry_out(job: Job) -> None:
    """Compare what the runs that this one waited for have measured."""
    started = time.monotonic()
    spec = job.spec
    require_version("scorer", spec["scorer_version"], job.edition.scorer)
    profile = profile_of(job)
    needed = needs(spec)
    sides = [needed[role] for role in SIDES if role in needed]
    prompts = stored_prompts(job, sides[0])
    traces = _traces_of(job, sides)
    with submitted(job, sides, weights=False) as first:
        differences = setting_differences(first.checkpoints[0], first.checkpoints[1])
        known = _digest(traces, profile, job, differences)
        if may_be_shared(job, known) and job.read(lambda session: has_comparison(session, known)):
            # A comparison follows from its traces and what lies beside their weights, and it is these that the run has
            # waited for.
            job.finish(known)
            return
        if first.whole:
            _compare(job, first.checkpoints, traces, profile, prompts, started)
            return
    with submitted(job, sides, weights=True) as fetched, discarding(fetched):
        _compare(job, fetched.checkpoints, traces, profile, prompts, started)


def _compare(
    job: Job,
    checkpoints: Sequence[Checkpoint],
    traces: Sequence[Trace],
    profile: MeasurementProfile,
    prompts: PromptSet,
    started: float,
) -> None:
    with ExitStack() as copies:
        captures = [_capture(job, copies, t, c, prompts) for t, c in zip(traces, checkpoints, strict=True)]
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


def _digest(
    traces: Sequence[Trace], profile: MeasurementProfile, job: Job, settings: Sequence[SettingDifference]
) -> str:
    reference, candidate, *control = (trace.digest for trace in traces)
    return comparison_digest(reference, candidate, profile, *control, settings=settings, edition=job.edition)


def _capture(job: Job, copies: ExitStack, trace: Trace, checkpoint: Checkpoint, prompts: PromptSet) -> Path:
    """The trace's capture, verified and open; one that was deleted, cut off or altered is measured again, here."""
    kept = job.read(lambda session: stored_capture(session, trace.digest))
    if kept is not None:
        try:
            return _opened(job, copies, kept)
        except CaptureMissing as error:
            say_lost(job, trace.digest, error.detail)
    require_version("engine", trace.engine.version, job.edition.engine)
    _, made = measure_and_put(job, checkpoint, prompts, trace.measurement_profile(), trace.digest)
    job.write_fenced(lambda session: replace_capture(session, made, lost=trace.digest in job.lost))
    return _opened(job, copies, made)


def _opened(job: Job, copies: ExitStack, capture: StoredCapture) -> Path:
    """The capture as a file of this machine until ``copies`` ends. Waits while the store is away."""

    def copy(artifacts: ArtifactStore) -> tuple[Path, ExitStack]:
        with ExitStack() as opening:
            path = opening.enter_context(artifacts.local_copy(capture.uri, capture.bytes, capture.sha256))
            return path, opening.pop_all()

    path, held = job.with_store(copy, dispose=lambda late: late[1].close())
    copies.push(held)
    return path
