"""Runs of kind ``trace``: measure one checkpoint; the result is a trace and its capture."""

import os
from pathlib import Path

from sqlalchemy.orm import Session

from service.traces.files import files_of, store_files
from service.traces.snapshots import known_weights_digest, remember_weights_digest
from service.traces.store import store_trace
from spinal.attestations.signed_models import hold_to_signed
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import PICKLE_SUFFIXES
from spinal.checkpoints.held import Held, hold
from spinal.checkpoints.identity import declared_digest, held_identity, require_expected
from spinal.checkpoints.pair import reading_of
from spinal.documents.editions import FORMER
from spinal.documents.trace import trace_digest
from spinal.errors import VersionRetired
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from worker.job import Job
from worker.kinds.inputs import (
    Submitted,
    discarding,
    kept_capture,
    may_be_shared,
    measure_and_put,
    profile_of,
    require_declared,
    require_version,
    stored_prompts,
    submitted,
)


def carry_out(job: Job) -> None:
    """Measure the checkpoint of the specification, unless the same content has been measured before."""
    spec = job.spec
    require_version("engine", spec["engine_version"], job.edition.engine)
    prompts = stored_prompts(job, spec)
    profile = profile_of(job)
    with submitted(job, [spec], weights=False) as first:
        [checkpoint] = first.checkpoints
        if job.edition == FORMER and _read_otherwise(checkpoint):
            raise VersionRetired(
                f"accepted for engine version {FORMER.engine}, which reads more of {checkpoint.source} than belongs "
                "to it",
                hint="submit the audit again: it is measured with the present version",
            )
        if first.whole:
            _measure(job, first, prompts, profile)
            return
        # Signed files are read here: what their source declares is what somebody else says of them.
        declared = None if "signed" in spec else declared_digest(checkpoint)
        if declared is not None and _known(job, checkpoint, declared, prompts, profile):
            return
    with submitted(job, [spec], weights=True) as fetched, discarding(fetched):
        _measure(job, fetched, prompts, profile)


def _known(job: Job, checkpoint: Checkpoint, weights: str, prompts: PromptSet, profile: MeasurementProfile) -> bool:
    """End the run with the trace that was measured of the same content, where there is one and its capture is kept."""
    require_expected(checkpoint.source, weights, job.spec.get("weights_digest"))
    expected = _expected(job, checkpoint, weights, prompts, profile)
    known = (
        may_be_shared(job, expected, read=False)
        and job.read(lambda session: files_of(session, weights)) is not None
        and kept_capture(job, expected) is not None
    )
    if known:
        job.finish(expected)
    return known


def _expected(job: Job, checkpoint: Checkpoint, weights: str, prompts: PromptSet, profile: MeasurementProfile) -> str:
    fingerprint = profile.fingerprint_under(job.edition.scheme)
    return trace_digest(weights, prompts.digest, fingerprint, job.spec["engine_version"], reading_of(checkpoint))


def _measure(job: Job, given: Submitted, prompts: PromptSet, profile: MeasurementProfile) -> None:
    with hold(given.checkpoints[0]) as held:
        weights = _known_or_hashed(job, held)
        require_declared(held.checkpoint, weights)
        require_expected(held.checkpoint.source, weights, job.spec.get("weights_digest"))
        _require_signed(job, held, given.checkpoints[0].path, weights)
        expected = _expected(job, held.checkpoint, weights, prompts, profile)
        if may_be_shared(job, expected) and kept_capture(job, expected) is not None:
            held.require_unchanged()
            files = held.file_digests()
            job.finish(expected, lambda session: store_files(session, files))
            return
        trace, capture = measure_and_put(job, held.checkpoint, prompts, profile, expected)
        held.require_unchanged()
        files = held.file_digests()

    def store(session: Session) -> None:
        store_trace(
            session,
            trace,
            capture_uri=capture.uri,
            capture_bytes=capture.bytes,
            capture_sha256=capture.sha256,
            lost=trace.digest in job.lost,
        )
        store_files(session, files)

    job.finish(trace.digest, store)


def _require_signed(job: Job, held: Held, folder: Path, weights: str) -> None:
    """Raise ModelSignatureMismatch where the files in ``folder`` are not those of the signature that came with the
    audit: ahead of any measurement, from the digests that are there already."""
    signed = job.spec.get("signed")
    if signed is None:
        return
    parts = held.file_digests()
    found = parts[0] if parts else job.read(lambda session: files_of(session, weights))
    if found is None:
        held.digest(progress=job.report, cancelled=job.should_stop)
        found = held.file_digests()[0]
    # Of the files that are not read a checkpoint names the first few.
    others = {name for name in signed["files"] if os.path.lexists(folder / name)}
    hold_to_signed(signed["files"], found.files, beside=held.beside_digests(), others=others)


def _read_otherwise(checkpoint: Checkpoint) -> bool:
    """Whether the release before may have read something else of the folder: it took every safetensors file, followed
    every member of the configuration, and did not look at what came of an adapter."""
    strays = any(name.endswith((".safetensors", *PICKLE_SUFFIXES)) for name in checkpoint.files.others)
    return strays or checkpoint.files.more > 0 or bool(checkpoint.unfollowed) or checkpoint.base is not None


def _known_or_hashed(job: Job, held: Held) -> str:
    """Digest of the weights, read from the disk once for as long as this host says that the files are untouched. Of
    files that are too new it cannot say that."""
    if not held.settled:
        return held.digest(progress=job.report, cancelled=job.should_stop)
    files, latest_s = held_identity(held), job.settings.remember_digest_s
    known = job.read(lambda session: known_weights_digest(session, files, not_older_than_s=latest_s))
    if known is not None:
        return known
    content = held.digest(progress=job.report, cancelled=job.should_stop)
    job.write(lambda session: remember_weights_digest(session, files, content))
    return content
