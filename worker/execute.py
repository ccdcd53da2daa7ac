"""What the two kinds of run do, from specification to stored result."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.platform.artifacts import ArtifactStore
from service.prompt_sets.store import load_prompt_set
from service.runs import transitions
from service.runs.lifecycle import RunKind
from service.runs.specs import spec_digest
from service.settings import Settings
from service.traces import store as traces
from service.traces.snapshots import known_weights_digest, remember_weights_digest
from spinal.audit import Ports, Traced, compare_traces, load_engine, measure_checkpoint
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.identity import snapshot_digest, weights_digest
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.comparison import SCORER_VERSION
from spinal.documents.trace import ENGINE_VERSION, Trace, trace_digest
from spinal.errors import ModelChanged, VersionRetired
from spinal.profile import MeasurementProfile
from spinal.progress import Progress
from spinal.prompts.sets import PromptSet
from worker.lease import Lease
from worker.store import end_attempt, patiently

log = structlog.get_logger(__name__)
Found = TypeVar("Found")


def _require_version(what: str, asked: str, known: str) -> None:
    """Work accepted for another version ends with that as its reason: a mixture of two would carry no name."""
    if asked != known:
        raise VersionRetired(
            f"accepted for {what} version {asked}; this worker runs version {known}",
            hint="submit the audit again: it is measured with the present version",
        )


class Job:
    """One claimed attempt being carried out."""

    def __init__(self, ledger: Ledger, settings: Settings, claim: transitions.Claim, lease: Lease) -> None:
        self._ledger = ledger
        self._settings = settings
        self._claim = claim
        self._lease = lease
        self._artifacts = ArtifactStore(settings)
        self._engine = load_engine(settings.engine)

    def carry_out(self) -> None:
        """Do the work and store its result under the fence."""
        if self._claim.kind is RunKind.TRACE:
            self._trace()
        else:
            self._compare()

    def _trace(self) -> None:
        spec = self._claim.spec
        checkpoint = self._checkpoint(spec)
        prompts = self._prompts(spec)
        profile = MeasurementProfile.model_validate(spec["profile"])
        expected = trace_digest(
            self._content(checkpoint, spec["snapshot"]), prompts.digest, profile.fingerprint, spec["engine_version"]
        )
        if self._kept_capture(expected) is not None:
            self._store(expected, lambda _session: None)
            return
        _require_version("engine", spec["engine_version"], ENGINE_VERSION)
        with self._artifacts.scratch() as folder:
            trace, uri, size = self._measure(checkpoint, prompts, profile, folder, expected)
        self._store(
            trace.digest, lambda session: traces.store_trace(session, trace, capture_uri=uri, capture_bytes=size)
        )

    def _store(self, digest: str, write: Callable[[Session], None]) -> None:
        """End the run with its result, in one transaction under the fence."""
        self._lease.measured()

        def end(session: Session) -> str:
            return transitions.succeed(session, self._claim.run_id, self._claim.attempt, digest, write)

        ended = end_attempt(self._ledger, self._lease, self._claim, end)
        log.info("done, and not wanted any more" if ended.upper() == "CANCELLED" else "succeeded", digest=digest)

    def _measure(
        self,
        checkpoint: Checkpoint,
        prompts: PromptSet,
        profile: MeasurementProfile,
        folder: Path,
        expected: str,
    ) -> tuple[Trace, str, int]:
        local = folder / f"{expected}.safetensors"
        trace = measure_checkpoint(
            checkpoint, prompts, profile, ports=self._ports(), capture_path=local, expected=expected
        )
        self._lease.report(Progress("store", 0, 1, 1.0))
        uri, size = self._artifacts.put(local, self._capture_name(trace.digest))
        return trace, uri, size

    def _capture_name(self, digest: str) -> str:
        """A name of this attempt's own: what a worker writes after its run was taken away replaces nothing. Which of a
        trace's captures is the one is said by its row, which is written under the fence."""
        return f"{digest}.{self._claim.run_id}-{self._claim.attempt}"

    def _compare(self) -> None:
        started = time.monotonic()
        spec = self._claim.spec
        _require_version("scorer", spec["scorer_version"], SCORER_VERSION)
        profile = MeasurementProfile.model_validate(spec["profile"])
        sides = [spec["reference"], spec["candidate"]]
        if spec.get("control") is not None:
            sides.append(spec["control"])
        prompts = self._prompts(sides[0])
        checkpoints = [self._checkpoint(side) for side in sides]
        found = self._traces_of(sides)
        uris = [self._capture(trace, c, prompts) for trace, c in zip(found, checkpoints, strict=True)]
        with ExitStack() as copies:
            captures = [copies.enter_context(self._artifacts.local_copy(uri)) for uri in uris]
            traced = [Traced(*side) for side in zip(found, captures, checkpoints, strict=True)]
            comparison = compare_traces(
                traced[0],
                traced[1],
                profile,
                ports=self._ports(),
                prompts=prompts,
                control=traced[2] if len(traced) > 2 else None,
                started=started,
            )
        self._store(comparison.digest, lambda session: traces.store_comparison(session, comparison))

    def _ports(self) -> Ports:
        """What the procedure takes from this attempt. Which captures are kept is decided here, under the fence."""
        return Ports(
            engine=lambda: self._engine,
            watch=lambda _label: nullcontext(self._lease.report),
            cancelled=self._lease.should_stop,
            device=self._settings.device,
            stream=self._settings.stream_weights,
            threads=self._settings.torch_threads,
            command=self._command(),
        )

    def _command(self) -> list[str]:
        """What stands for the command line in provenance: the run and the attempt, to be found in the ledger."""
        return ["spinal-worker", f"run:{self._claim.run_id}", f"attempt:{self._claim.attempt}"]

    def _traces_of(self, sides: Sequence[dict[str, Any]]) -> list[Trace]:
        def read(session: Session) -> list[Trace]:
            results = transitions.dependency_results(session, self._claim.run_id)
            return [traces.load_trace(session, results[spec_digest(side)]) for side in sides]

        return self._read(read)

    def _read(self, query: Callable[[Session], Found]) -> Found:
        def ask() -> Found:
            with self._ledger.read() as session:
                return query(session)

        return patiently(ask, self._lease)

    def _write(self, statement: Callable[[Session], None]) -> None:
        """A write that may be made twice."""

        def ask() -> None:
            with self._ledger.begin() as session:
                statement(session)

        patiently(ask, self._lease)

    def _capture(self, trace: Trace, checkpoint: Checkpoint, prompts: PromptSet) -> str:
        """Where the trace's capture lies; one that was deleted or cut off is measured again, here."""
        kept = self._kept_capture(trace.digest)
        if kept is not None:
            return kept
        _require_version("engine", trace.engine.version, ENGINE_VERSION)
        with self._artifacts.scratch() as folder:
            _, uri, size = self._measure(checkpoint, prompts, trace.measurement_profile(), folder, trace.digest)

        def replace(session: Session) -> None:
            transitions.check_fence(session, self._claim.run_id, self._claim.attempt)
            traces.replace_capture(session, trace.digest, uri, size)

        self._write(replace)
        return uri

    def _checkpoint(self, spec: dict[str, Any]) -> Checkpoint:
        checkpoint = resolve_reference(spec["model"], roots=self._settings.model_roots)
        if snapshot_digest(checkpoint) != spec["snapshot"]:
            raise ModelChanged(
                f"the files of {checkpoint.source} are not those that were submitted",
                hint="submit again; checkpoints must not change while they are audited",
            )
        return checkpoint

    def _prompts(self, spec: dict[str, Any]) -> PromptSet:
        return self._read(lambda session: load_prompt_set(session, spec["prompt_set"]))

    def _content(self, checkpoint: Checkpoint, snapshot: str) -> str:
        known = self._read(lambda session: known_weights_digest(session, snapshot))
        if known is not None:
            return known
        content = weights_digest(checkpoint, progress=self._lease.report, cancelled=self._lease.should_stop)
        self._write(lambda session: remember_weights_digest(session, snapshot, content))
        return content

    def _kept_capture(self, digest: str) -> str | None:
        """Uri of the whole capture behind a stored trace; None when there is no such trace, or its capture is gone or
        cut off."""
        stored = self._read(lambda session: traces.stored_capture(session, digest))
        if stored is None or self._artifacts.size(stored.uri) != stored.bytes:
            return None
        return stored.uri
