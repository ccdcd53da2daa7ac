"""What the kinds that measure share: the submitted checkpoint, its prompts, and captures, kept or made again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from service.prompt_sets.store import load_prompt_set
from service.runs.specs import edition_of
from service.traces import store as traces
from service.traces.store import StoredCapture
from spinal.audit import measure_checkpoint
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.fetching.collect import Collector
from spinal.checkpoints.fetching.gather import Want
from spinal.checkpoints.identity import content_snapshot, declared_digest, former_snapshot
from spinal.checkpoints.read_as import resolve_as
from spinal.checkpoints.sources.reach import is_remote
from spinal.documents.editions import FORMER
from spinal.documents.trace import Trace
from spinal.errors import (
    ModelChanged,
    ModelNotFound,
    ModelPathRefused,
    ModelReferenceInvalid,
    ModelStoreFull,
    NotReady,
    SourceRefused,
    SourceUnavailable,
    SpinalError,
    StorageUnavailable,
    UsageError,
    VersionRetired,
    WeightsCorrupt,
)
from spinal.profile import MeasurementProfile
from spinal.progress import Progress
from spinal.prompts.sets import PromptSet
from worker.job import Job, MissingHere, SourceAway

log = structlog.get_logger(__name__)


def require_version(what: str, asked: str, known: str) -> None:
    """Work accepted for another version ends with that as its reason: a mixture of two would carry no name."""
    if asked != known:
        raise VersionRetired(
            f"accepted for {what} version {asked}; this worker runs version {known}",
            hint="submit the audit again: it is measured with the present version",
        )


def profile_of(job: Job) -> MeasurementProfile:
    """The knobs of a specification. Work that the release before accepted is done as that would have done it: it knew
    no accounts of what carries a change."""
    profile = MeasurementProfile.model_validate(job.spec["profile"])
    return profile.model_copy(update={"stitch_prompts": 0}) if job.edition == FORMER else profile


@dataclass(frozen=True)
class Submitted:
    """The checkpoints of specifications, while their files are kept on this host."""

    checkpoints: list[Checkpoint]
    collector: Collector

    @property
    def whole(self) -> bool:
        """Whether their weights are here, and not of some of them only the headers."""
        return all(part.copy is None or part.copy.whole for side in self.checkpoints for part in side.parts)


@contextmanager
def submitted(job: Job, specs: Sequence[dict[str, Any]], *, weights: bool) -> Iterator[Submitted]:
    """The checkpoints of trace specifications, read as those say. What lives elsewhere is fetched, without ``weights``
    as far as their headers.

    Raises ModelChanged when files are not those of the submission, MissingHere when this worker does not find one at
    all or its sources are others, SourceAway when its source does not answer, there is no room for it, or this worker
    cannot fetch as it is set up.
    """
    with job.collect(Want.WEIGHTS if weights else Want.HEADERS) as collector:
        yield Submitted([_submitted(job, spec, collector) for spec in specs], collector)


def _submitted(job: Job, spec: dict[str, Any], collector: Collector) -> Checkpoint:
    read = spec.get("read", {})
    _bring(spec["model"], read, collector)
    try:
        checkpoint = resolve_as(spec["model"], read, roots=job.model_roots, copies=collector)
    except SpinalError as error:
        if isinstance(error.__cause__ or error, ModelNotFound | ModelPathRefused):
            raise MissingHere(error) from error
        raise _changed(f"{spec['model']} is not what was submitted: {error.detail}") from error
    snapshot = former_snapshot if edition_of(spec) == FORMER else content_snapshot
    try:
        found = snapshot(checkpoint)
    except SpinalError as error:
        raise _changed(f"{checkpoint.source} is not what was submitted: {error.detail}") from error
    if found != spec["snapshot"]:
        raise _changed(f"the files of {checkpoint.source} are not those that were submitted")
    return checkpoint


def _bring(model: str, read: Mapping[str, Any], collector: Collector) -> None:
    """Fetch what lives elsewhere, ahead of looking at it: what goes wrong then is no change of files."""
    try:
        for reference in filter(is_remote, [model, *([read["base"]] if "base" in read else [])]):
            collector.find(reference)
        lender = read.get("tokenizer", {}).get("model")
        if lender is not None and is_remote(lender):
            collector.find(lender, tokenizer=True)
    except (ModelNotFound, ModelReferenceInvalid, SourceRefused) as error:
        # The service has accepted it: the sources of this worker may be older, or newer, than what it accepted by.
        raise MissingHere(error) from error
    except (SourceUnavailable, ModelStoreFull, StorageUnavailable) as error:
        raise SourceAway(error) from error
    except UsageError as error:
        # Of the store, or of a file with a secret: nothing that the run could help.
        raise SourceAway(NotReady(f"this worker cannot fetch models: {error.detail}", hint=error.hint)) from error


def _changed(detail: str) -> ModelChanged:
    return ModelChanged(detail, hint="submit again; checkpoints must not change while they are audited")


def require_declared(checkpoint: Checkpoint, weights: str) -> None:
    """Raise WeightsCorrupt where what was read is not what was fetched and verified."""
    declared = declared_digest(checkpoint)
    if declared is not None and declared != weights:
        raise WeightsCorrupt(
            f"the files of {checkpoint.source} that this host keeps are not those that its source declares",
            hint="submit again: they were removed and will be fetched anew; look at the disk of the worker",
        )


@contextmanager
def discarding(given: Submitted) -> Iterator[None]:
    """Files that were fetched and are found to be others when they are read are removed, to be fetched anew."""
    try:
        yield
    except (WeightsCorrupt, ModelChanged) as error:
        # A change may be one of files in a folder, beside fetched ones that others use.
        given.collector.discard(only_damaged=isinstance(error, ModelChanged))
        raise


def stored_prompts(job: Job, spec: dict[str, Any]) -> PromptSet:
    """The prompts of a trace specification."""
    return job.read(lambda session: load_prompt_set(session, spec["prompt_set"]))


def may_be_shared(job: Job, digest: str, *, read: bool = True) -> bool:
    """Whether a result that is there already serves the run. Where tenants share nothing, what another has measured is
    measured again: how soon an audit ends must not tell what others have audited. Content that was only declared, and
    not ``read``, is no proof to others: a tenant's own source may declare what it has not got."""
    tenant = job.tenant
    if tenant is None or (job.settings.share_results and read):
        return True
    return job.read(lambda session: traces.tenant_has_result(session, tenant, digest))


def kept_capture(job: Job, digest: str) -> StoredCapture | None:
    """The capture behind a stored trace; None when there is no such trace, or its capture is gone, cut off or
    altered. Waits while the store is away: what it does not show then is not gone."""
    stored = job.read(lambda session: traces.stored_capture(session, digest))
    if stored is None:
        return None
    if job.with_store(lambda artifacts: artifacts.size(stored.uri)) != stored.bytes:
        say_lost(job, digest, f"{stored.uri} is not there, or cut off")
        return None
    if stored.sha256 is not None and job.with_store(lambda artifacts: artifacts.sha256(stored.uri)) != stored.sha256:
        log.error("a stored capture was altered", digest=digest, uri=stored.uri)
        job.lost.add(digest)
        return None
    return stored


def say_lost(job: Job, digest: str, why: str) -> None:
    """Told to whoever runs the service, and counted with the trace."""
    job.lost.add(digest)
    log.warning(
        "a stored capture is measured again",
        digest=digest,
        why=why,
        hint="do all workers share the folder of SPINAL_ARTIFACT_URL? A folder of each worker's own shows nothing of "
        "the others'; was it emptied, or restored from before?",
    )


def measure_and_put(
    job: Job, checkpoint: Checkpoint, prompts: PromptSet, profile: MeasurementProfile, expected: str
) -> tuple[Trace, StoredCapture]:
    """Measure the trace that is to be called ``expected`` and put its capture into the artifact store. While that
    cannot be used the capture is kept, for as long as the attempt is patient. Raises ModelChanged when another trace
    came out, StorageUnavailable."""
    with job.artifacts.scratch() as folder:
        local = folder / f"{expected}.safetensors"
        trace = measure_checkpoint(checkpoint, prompts, profile, ports=job.ports, capture_path=local, expected=expected)
        job.report(Progress("store", 0, 1, 1.0))
        name = _capture_name(job, trace.digest)
        stored = job.with_store(lambda artifacts: artifacts.put(local, name))
        return trace, StoredCapture(trace.digest, stored.uri, stored.bytes, stored.sha256)


def _capture_name(job: Job, digest: str) -> str:
    """A name of this attempt's own: what a worker writes after its run was taken away replaces nothing. Which of a
    trace's captures is the one is said by its row, which is written under the fence."""
    return f"{digest}.{job.claim.run_id}-{job.claim.attempt}"
