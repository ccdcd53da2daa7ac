"""Runs of kind ``trace``: measure one checkpoint; the result is a trace and its capture."""

from service.traces.snapshots import known_weights_digest, remember_weights_digest
from service.traces.store import store_trace, tenant_has_trace
from spinal.checkpoints.held import Held, hold
from spinal.checkpoints.identity import held_identity
from spinal.checkpoints.pair import reading_of
from spinal.documents.trace import trace_digest
from spinal.profile import MeasurementProfile
from worker.job import Job
from worker.kinds.inputs import (
    kept_capture,
    measure_and_put,
    require_expected_weights,
    require_version,
    stored_prompts,
    submitted_checkpoint,
)


def carry_out(job: Job) -> None:
    """Measure the checkpoint of the specification, unless the same content has been measured before."""
    spec = job.spec
    prompts = stored_prompts(job, spec)
    profile = MeasurementProfile.model_validate(spec["profile"])
    with hold(submitted_checkpoint(job, spec)) as held:
        weights = _known_or_hashed(job, held)
        require_expected_weights(spec, held.checkpoint.source, weights)
        fingerprint = profile.fingerprint_under(job.edition.scheme)
        reading = reading_of(held.checkpoint)
        expected = trace_digest(weights, prompts.digest, fingerprint, spec["engine_version"], reading)
        if _may_be_shared(job, expected) and kept_capture(job, expected) is not None:
            held.require_unchanged()
            job.finish(expected)
            return
        require_version("engine", spec["engine_version"], job.edition.engine)
        trace, uri, size = measure_and_put(job, held.checkpoint, prompts, profile, expected)
        held.require_unchanged()
    job.finish(trace.digest, lambda session: store_trace(session, trace, capture_uri=uri, capture_bytes=size))


def _may_be_shared(job: Job, digest: str) -> bool:
    """Whether a trace that is there already serves the run. Where tenants share nothing, one that another has measured
    is measured again: how soon an audit ends must not tell what others have audited."""
    tenant = job.tenant
    if tenant is None or job.settings.share_results:
        return True
    return job.read(lambda session: tenant_has_trace(session, tenant, digest))


def _known_or_hashed(job: Job, held: Held) -> str:
    """Digest of the weights, read from the disk once for as long as this host says that the files are untouched."""
    files, latest_s = held_identity(held), job.settings.remember_digest_s
    known = job.read(lambda session: known_weights_digest(session, files, not_older_than_s=latest_s))
    if known is not None:
        return known
    content = held.digest(progress=job.report, cancelled=job.should_stop)
    job.write(lambda session: remember_weights_digest(session, files, content))
    return content
