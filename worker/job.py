"""One claimed attempt, as the function of its kind gets it: the specification, what it may reach, and how to end it."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.platform.artifacts import ArtifactStore, of_this_machine
from service.runs import attempts, transitions
from service.runs.kinds import Reach, kind_named
from service.runs.specs import edition_of
from service.settings import Settings
from spinal.audit import Ports
from spinal.checkpoints.fetching.collect import Collector
from spinal.checkpoints.fetching.gather import Want
from spinal.documents.editions import Edition
from spinal.engine_port import MeasuringEngine
from spinal.errors import SourceUnavailable, SpinalError
from spinal.progress import Progress
from worker.engine import engine_with_threads, warm_reference
from worker.lease import Lease
from worker.store import end_attempt, retry_while_unavailable
from worker.stores import through_outages

log = structlog.get_logger(__name__)
Found = TypeVar("Found")


class OutOfReach(RuntimeError):
    """A job asked for what the entry of its kind does not list."""


class SourceAway(Exception):
    """Where a model lives, or the store for what is fetched, cannot be used now: nothing that the run could help."""

    def __init__(self, problem: SpinalError) -> None:
        super().__init__(problem.detail)
        self.problem = problem

    @property
    def pause_s(self) -> float | None:
        """What the source asked for, where it did."""
        return self.problem.retry_after_s if isinstance(self.problem, SourceUnavailable) else None


class MissingHere(Exception):
    """This worker does not find what the API accepted: another one may."""

    def __init__(self, problem: SpinalError) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class NotSetUpHere(Exception):
    """This worker was not given a setting that the run needs. It says which, to the operator alone: whoever asked for
    the run can do nothing about it."""


class Job:
    """One attempt being carried out. It has succeeded once :meth:`finish` has returned."""

    def __init__(self, ledger: Ledger, settings: Settings, claim: transitions.Claim, lease: Lease) -> None:
        self.settings = settings
        self.claim = claim
        self._kind = kind_named(claim.kind)
        self._ledger = ledger
        self._lease = lease
        self.lost: set[str] = set()
        """Traces whose capture was not in the artifact store although the ledger says so."""

    @property
    def spec(self) -> dict[str, Any]:
        """What is to be done."""
        return self.claim.spec

    @property
    def tenant(self) -> str | None:
        """For whom alone the run works; None where all may share its result."""
        owner: str | None = self.spec.get("tenant")
        return owner

    @property
    def edition(self) -> Edition:
        """What its result is called by."""
        return edition_of(self.spec)

    @property
    def command(self) -> list[str]:
        """What stands for the command line in provenance: the run and the attempt, to be found in the ledger."""
        return ["spinal-worker", f"run:{self.claim.run_id}", f"attempt:{self.claim.attempt}"]

    # what it may reach

    @property
    def model_roots(self) -> tuple[Path, ...]:
        """Those of the tenant for whom the run works."""
        self._require("models")
        return self.settings.roots_of(self.tenant)

    def collect(self, want: Want) -> Collector:
        """Brings what lives elsewhere to this host, with the credentials of the tenant for whom the run works."""
        self._require("models")
        return Collector(
            self.settings.reach_of(self.tenant),
            self.settings.store_of_models(),
            want=want,
            progress=self.report,
            cancelled=self.should_stop,
            patience_s=self.settings.source_answer_s,
        )

    @cached_property
    def engine(self) -> MeasuringEngine:
        self._require("engine")
        return engine_with_threads(self.settings)

    @property
    def ports(self) -> Ports:
        """What the procedure of an audit takes from this attempt. Which captures are kept is decided by the kinds."""
        return Ports(
            engine=lambda: self.engine,
            watch=lambda _label: nullcontext(self.report),
            cancelled=self.should_stop,
            device=self.settings.device,
            stream=self.settings.stream_weights,
            threads=self.settings.torch_threads,
            command=self.command,
            edition=self.edition,
            warm=warm_reference(self.settings.warm_reference_bytes),
            write_capture=self._write_capture,
        )

    @property
    def artifacts(self) -> ArtifactStore:
        self._require("artifacts")
        store = ArtifactStore(self.settings)
        # It was, when this process last looked: nothing is claimed before.
        store.is_marked()
        return store

    def with_store(
        self, call: Callable[[ArtifactStore], Found], dispose: Callable[[Found], None] = lambda _found: None
    ) -> Found:
        """``call(artifacts)``, which may be made twice, again and again while the store cannot be used and the attempt
        is patient; then its StorageUnavailable. Raises Cancelled at once when told to stop; what the call brings after
        that is given to ``dispose``."""
        self._require("artifacts")
        # Made anew each time: a file with a secret may hold another by then.
        return self._through_outages(lambda: call(self.artifacts), dispose)

    def _write_capture(self, write: Callable[[], None]) -> None:
        """Where scratch is full, too, what was measured is not thrown away while the attempt is patient."""

        def on_this_machine() -> None:
            with of_this_machine():
                write()

        self._through_outages(on_this_machine)

    def _through_outages(
        self, call: Callable[[], Found], dispose: Callable[[Found], None] = lambda _found: None
    ) -> Found:
        return through_outages(
            call,
            stopped=self.should_stop,
            patient=self._lease.patient,
            # Proof that it has not stalled.
            waiting=lambda tries: self.report(Progress("store", tries, tries + 1, 1.0)),
            dispose=dispose,
        )

    def _require(self, what: Reach) -> None:
        if what not in self._kind.reaches:
            raise OutOfReach(f"runs of kind {self._kind.name} do not reach {what} (service/runs/kinds.py)")

    # while it goes on

    def report(self, progress: Progress) -> None:
        """Tell how far it is: shown to whoever waits, and proof that it has not stalled."""
        self._lease.report(progress)

    def should_stop(self) -> bool:
        """Whether to stop, as soon as that can be done, with Cancelled."""
        return self._lease.should_stop()

    # the ledger

    def read(self, query: Callable[[Session], Found]) -> Found:
        """``query`` in a read-only transaction, asked again while the database is away."""

        def ask() -> Found:
            with self._ledger.read() as session:
                return query(session)

        return retry_while_unavailable(ask, self._lease)

    def write(self, statement: Callable[[Session], None]) -> None:
        """A write that may be made twice, and by an attempt that has been taken away."""

        def ask() -> None:
            with self._ledger.begin() as session:
                statement(session)

        retry_while_unavailable(ask, self._lease)

    def write_fenced(self, statement: Callable[[Session], None]) -> None:
        """A write that may be made twice, while the run is this attempt's; raises LeaseLost."""

        def fenced(session: Session) -> None:
            transitions.check_fence(session, self.claim.run_id, self.claim.attempt)
            statement(session)

        self.write(fenced)

    @property
    def charged(self) -> int:
        """How many attempts of the run count, this one among them."""
        return self.read(lambda session: attempts.charged_attempts(session, self.claim.run_id))

    def fail(self, problem: SpinalError, store: Callable[[Session], None], *, pause_s: float) -> None:
        """End the attempt with a problem, and put the run back for ``pause_s`` where another may help; ``store`` writes
        what is to be kept of it, in one transaction under the fence. Raises LeaseLost."""
        self._lease.work_done()

        def end(session: Session) -> str:
            return transitions.fail(
                session,
                self.claim.run_id,
                self.claim.attempt,
                problem.to_problem(),
                retryable=problem.retryable,
                max_attempts=self._kind.attempts(self.settings).most,
                backoff_s=0.0,
                pause_s=pause_s,
                store=store,
            )

        ended = end_attempt(self._ledger, self._lease, self.claim, end)
        log.warning("attempt ended", code=problem.code, detail=problem.detail, ended=ended)

    def give_up(self, why: str) -> None:
        """End the run as one that nobody wants any more. Raises LeaseLost."""
        self._lease.work_done()

        def end(session: Session) -> str:
            transitions.check_fence(session, self.claim.run_id, self.claim.attempt)
            transitions.cancelled(session, self.claim.run_id, self.claim.attempt)
            return "CANCELLED"

        end_attempt(self._ledger, self._lease, self.claim, end)
        log.info("given up", why=why)

    def finish(self, digest: str, store: Callable[[Session], None] = lambda _session: None) -> None:
        """End the run with the result ``digest``, which ``store`` writes into the table of the kind, in one transaction
        under the fence; raises LeaseLost."""
        self._lease.work_done()

        def end(session: Session) -> str:
            return transitions.succeed(session, self.claim.run_id, self.claim.attempt, digest, store)

        ended = end_attempt(self._ledger, self._lease, self.claim, end)
        log.info("done, and not wanted any more" if ended.upper() == "CANCELLED" else "succeeded", digest=digest)
