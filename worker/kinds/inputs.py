"""What the kinds that measure share: the submitted checkpoint, its prompts, and captures, kept or made again."""

from typing import Any

from service.prompt_sets.store import load_prompt_set
from service.runs.specs import edition_of
from service.traces import store as traces
from spinal.audit import measure_checkpoint
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.identity import content_snapshot, former_snapshot
from spinal.checkpoints.read_as import resolve_as
from spinal.documents.editions import FORMER
from spinal.documents.trace import Trace
from spinal.errors import ModelChanged, VersionRetired, WeightsDigestMismatch
from spinal.profile import MeasurementProfile
from spinal.progress import Progress
from spinal.prompts.sets import PromptSet
from worker.job import Job


def require_version(what: str, asked: str, known: str) -> None:
    """Work accepted for another version ends with that as its reason: a mixture of two would carry no name."""
    if asked != known:
        raise VersionRetired(
            f"accepted for {what} version {asked}; this worker runs version {known}",
            hint="submit the audit again: it is measured with the present version",
        )


def submitted_checkpoint(job: Job, spec: dict[str, Any]) -> Checkpoint:
    """The checkpoint of a trace specification, read as it says; raises ModelChanged when its files are not those of the
    submission."""
    checkpoint = resolve_as(spec["model"], spec.get("read", {}), roots=job.model_roots)
    snapshot = former_snapshot if edition_of(spec) == FORMER else content_snapshot
    if snapshot(checkpoint) != spec["snapshot"]:
        raise ModelChanged(
            f"the files of {checkpoint.source} are not those that were submitted",
            hint="submit again; checkpoints must not change while they are audited",
        )
    return checkpoint


def require_expected_weights(spec: dict[str, Any], source: str, weights: str) -> None:
    """Raise WeightsDigestMismatch where the caller expects another content than was found."""
    expected = spec.get("weights_digest")
    if expected is not None and expected != weights:
        raise WeightsDigestMismatch(
            f"{source} has weights digest {weights}, expected was {expected}",
            hint="is it the checkpoint that you mean? Submit with the digest of the one to be judged",
        )


def stored_prompts(job: Job, spec: dict[str, Any]) -> PromptSet:
    """The prompts of a trace specification."""
    return job.read(lambda session: load_prompt_set(session, spec["prompt_set"]))


def kept_capture(job: Job, digest: str) -> str | None:
    """Uri of the whole capture behind a stored trace; None when there is no such trace, or its capture is gone or
    cut off."""
    stored = job.read(lambda session: traces.stored_capture(session, digest))
    if stored is None or job.artifacts.size(stored.uri) != stored.bytes:
        return None
    return stored.uri


def measure_and_put(
    job: Job, checkpoint: Checkpoint, prompts: PromptSet, profile: MeasurementProfile, expected: str
) -> tuple[Trace, str, int]:
    """Measure the trace that is to be called ``expected`` and put its capture into the artifact store; returns the
    trace with the capture's uri and bytes. Raises ModelChanged when another trace came out."""
    with job.artifacts.scratch() as folder:
        local = folder / f"{expected}.safetensors"
        trace = measure_checkpoint(checkpoint, prompts, profile, ports=job.ports, capture_path=local, expected=expected)
        job.report(Progress("store", 0, 1, 1.0))
        uri, size = job.artifacts.put(local, _capture_name(job, trace.digest))
        return trace, uri, size


def _capture_name(job: Job, digest: str) -> str:
    """A name of this attempt's own: what a worker writes after its run was taken away replaces nothing. Which of a
    trace's captures is the one is said by its row, which is written under the fence."""
    return f"{digest}.{job.claim.run_id}-{job.claim.attempt}"
