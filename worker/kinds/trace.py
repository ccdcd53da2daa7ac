"""Runs of kind ``trace``: measure one checkpoint; the result is a trace and its capture."""

from service.traces.snapshots import known_weights_digest, remember_weights_digest
from service.traces.store import store_trace, tenant_has_trace
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.identity import weights_digest
from spinal.documents.trace import trace_digest
from spinal.profile import MeasurementProfile
from worker.job import Job
from worker.kinds.inputs import kept_capture, measure_and_put, require_version, stored_prompts, submitted_checkpoint


def carry_out(job: Job) -> None:
    """Measure the checkpoint of the specification, unless the same content has been measured before."""
    spec = job.spec
    checkpoint = submitted_checkpoint(job, spec)
    prompts = stored_prompts(job, spec)
    profile = MeasurementProfile.model_validate(spec["profile"])
    weights = _known_or_hashed(job, checkpoint, spec["snapshot"])
    fingerprint = profile.fingerprint_under(job.edition.scheme)
    expected = trace_digest(weights, prompts.digest, fingerprint, spec["engine_version"])
    if _may_be_shared(job, expected) and kept_capture(job, expected) is not None:
        job.finish(expected)
        return
    require_version("engine", spec["engine_version"], job.edition.engine)
    trace, uri, size = measure_and_put(job, checkpoint, prompts, profile, expected)
    job.finish(trace.digest, lambda session: store_trace(session, trace, capture_uri=uri, capture_bytes=size))


def _may_be_shared(job: Job, digest: str) -> bool:
    """Whether a trace that is there already serves the run. Where tenants share nothing, one that another has measured
    is measured again: how soon an audit ends must not tell what others have audited."""
    tenant = job.tenant
    if tenant is None or job.settings.share_results:
        return True
    return job.read(lambda session: tenant_has_trace(session, tenant, digest))


def _known_or_hashed(job: Job, checkpoint: Checkpoint, snapshot: str) -> str:
    """Digest of the weights, read from the disk once for each snapshot of the files."""
    known = job.read(lambda session: known_weights_digest(session, snapshot))
    if known is not None:
        return known
    content = weights_digest(checkpoint, progress=job.report, cancelled=job.should_stop)
    job.write(lambda session: remember_weights_digest(session, snapshot, content))
    return content
