"""The procedure of an audit, once: checkpoints -> traces -> evidence -> comparison.

The command line, the functions of ``import spinal``, the worker, the benchmarks and the tests call it. What differs
between them - where captures are kept, who watches, who may cancel, how prompts are found, on which device - comes in
through :class:`Ports`. torch is imported when the engine is first needed, and by nothing here.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from spinal.analysis.compare import compare
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.held import Held, hold, private_folder
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.pair import prepare_sides, reading_of
from spinal.documents.capture import WriteCapture, load_capture, write_once
from spinal.documents.comparison import Comparison
from spinal.documents.editions import PRESENT, Edition
from spinal.documents.evidence import AccountEvidence, PairEvidence, absent_evidence
from spinal.documents.provenance import make_provenance
from spinal.documents.trace import Trace, stamp_profile, trace_digest
from spinal.engine_port import MeasuringEngine, load_engine
from spinal.errors import ModelChanged
from spinal.policy.decide import judged
from spinal.profile import MeasurementProfile
from spinal.progress import CancelCheck, Progress, ProgressSink, ignore_progress, never_cancelled
from spinal.prompts.load import load_prompts
from spinal.prompts.sets import PromptSet
from spinal.warm import Warm

NO_CHECKPOINT = "checkpoint_not_at_hand"
"""Reason of every value that only the weights of both sides could have given."""
PAIR_SHARE = 0.7
"""Of the work on a pair and the account of a control, the pair's."""
Watch = Callable[[str], AbstractContextManager[ProgressSink]]
"""What somebody watching gives for a piece of work by its name: where its progress goes, for as long as it takes."""


@dataclass(frozen=True, eq=False)
class Traced:
    """A trace with its capture, and the checkpoint it was measured on where that is at hand."""

    trace: Trace
    capture: Path
    checkpoint: Checkpoint | None = None


class Captures(Protocol):
    """Where traces and their captures are kept and found again."""

    def find(self, digest: Callable[[], str]) -> Traced | None:
        """What is kept under a trace's digest, if anything. To call ``digest`` reads all weights."""
        ...

    def place(self) -> Path:
        """A path in an existing folder, not yet taken, for a capture about to be written."""
        ...

    def keep(self, trace: Trace, written: Path) -> Traced:
        """Keep a trace and the capture that was written to a path of :meth:`place`."""
        ...


class TemporaryCaptures:
    """Captures in a folder that somebody else removes. None is found again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._placed = 0

    def find(self, digest: Callable[[], str]) -> Traced | None:
        return None

    def place(self) -> Path:
        self._placed += 1
        return self._folder / f"{self._placed}.safetensors"

    def keep(self, trace: Trace, written: Path) -> Traced:
        return Traced(trace, written)


@contextmanager
def temporary_captures() -> Iterator[TemporaryCaptures]:
    """Captures that are gone with the context."""
    with private_folder() as folder:
        yield TemporaryCaptures(folder)


def unwatched(label: str) -> AbstractContextManager[ProgressSink]:
    """A :data:`Watch` where nobody watches."""
    return nullcontext(ignore_progress)


@dataclass(frozen=True, eq=False)
class Ports:
    """What the procedure takes from its surroundings."""

    captures: Captures | None = None
    """None where the caller decides on captures by itself, with :func:`measure_checkpoint`."""
    engine: Callable[[], MeasuringEngine] = load_engine
    """Called when something has to be measured, and not before."""
    prompts: Callable[[str], PromptSet] = load_prompts
    """Finds prompts that are given by a name."""
    watch: Watch = unwatched
    cancelled: CancelCheck = never_cancelled
    device: str = "cpu"
    stream: bool = False
    """Whether blocks are read from disk one at a time: same numbers, less memory."""
    threads: int | None = None
    """Threads that a comparison's provenance names; None for those of the reference's trace."""
    command: Sequence[str] | None = None
    """Command line that provenance names."""
    edition: Edition = PRESENT
    """Under which versions and scheme of digests the documents are made."""
    warm: Warm = field(default_factory=Warm)
    """What is kept of a reference between calls that are given the same one: by default nothing."""
    write_capture: WriteCapture = write_once


def measure_checkpoint(
    checkpoint: Checkpoint,
    prompts: PromptSet | str,
    profile: MeasurementProfile,
    *,
    ports: Ports,
    capture_path: Path,
    expected: str | None = None,
) -> Trace:
    """Measure one checkpoint, whatever is kept of it, and write its capture to ``capture_path``.

    Raises ModelChanged where the trace's digest is not the ``expected`` one, and what the engine's ``measure`` raises.
    """
    with ports.watch(checkpoint.source) as show:
        found = find_prompts(prompts, ports)
        return _measure(checkpoint, found, profile, ports, capture_path, show, expected).remarked(found.remarks)


def trace_checkpoint(
    checkpoint: Checkpoint, prompts: PromptSet | str, profile: MeasurementProfile, *, ports: Ports
) -> Traced:
    """The trace of one checkpoint: the kept one, or else measured and kept.

    A kept trace carries the provenance of its measurement, with the names and knobs of this call. Raises ValueError
    without a port for captures, and the errors of ``inspect`` and the engine's ``measure``.
    """
    captures = ports.captures
    if captures is None:
        raise ValueError("tracing needs a port for captures")
    found_prompts = find_prompts(prompts, ports)
    with ports.watch(checkpoint.source) as show, hold(checkpoint) as held:
        inspect(held.checkpoint)

        def digest() -> str:
            content = held.digest(progress=show, cancelled=ports.cancelled)
            fingerprint = profile.fingerprint_under(ports.edition.scheme)
            return trace_digest(
                content, found_prompts.digest, fingerprint, ports.edition.engine, reading_of(held.checkpoint)
            )

        kept = captures.find(digest)
        if kept is not None:
            held.require_unchanged()
            today = _as_of_today(kept.trace, checkpoint, found_prompts, stamp_profile(profile, ports.edition))
            return Traced(today, kept.capture, checkpoint)
        path = captures.place()
        kept = captures.keep(_measure(held.checkpoint, found_prompts, profile, ports, path, show), path)
        said = (*found_prompts.remarks, *checkpoint.remarks)
        return replace(kept, trace=kept.trace.remarked(said), checkpoint=checkpoint)


def compare_traces(
    reference: Traced,
    candidate: Traced,
    profile: MeasurementProfile,
    *,
    ports: Ports,
    prompts: PromptSet | str | None = None,
    control: Traced | None = None,
    started: float | None = None,
) -> Comparison:
    """Everything known about candidate minus reference, with the verdict of the default policy.

    Where both checkpoints are at hand the engine gathers evidence on them, for which it needs their ``prompts``. Where
    one is not, all that rests on weights is null with reason ``checkpoint_not_at_hand``. What carries the control's own
    change is accounted for where its checkpoint is at hand. ``started`` (``time.monotonic``) is when the work began, if
    that was before this call.

    Raises ValueError without prompts that are needed, and what the engine's ``gather_evidence`` and
    ``gather_accounts``, ``load_capture`` and ``compare`` raise.
    """
    started = time.monotonic() if started is None else started
    with ports.watch("comparing") as show:
        first, second = (show, show) if control is None else _shared(show, PAIR_SHARE)
        evidence = _evidence(reference, candidate, profile, ports, prompts, first)
        accounts = () if control is None else _control_accounts(reference, control, profile, ports, prompts, second)
        show(Progress("statistics", 0, 1, 1.0))
        content = compare(
            reference.trace,
            load_capture(reference.capture),
            candidate.trace,
            load_capture(candidate.capture),
            evidence,
            profile,
            make_provenance(
                device=evidence.device,
                dtype=evidence.dtype,
                threads=ports.threads or reference.trace.provenance.threads,
                seed=profile.seed,
                command=ports.command,
                started=started,
                edition=ports.edition,
            ),
            control=None if control is None else (control.trace, load_capture(control.capture)),
            control_accounts=accounts,
            edition=ports.edition,
        )
        return judged(content)


def audit_pair(
    reference: Checkpoint | Traced,
    candidate: Checkpoint | Traced,
    prompts: PromptSet | str | None,
    profile: MeasurementProfile,
    *,
    ports: Ports,
    control: Checkpoint | Traced | None = None,
    tokenizer: Checkpoint | None = None,
) -> Comparison:
    """Trace what was not traced yet and compare; all checkpoints are checked before any weight is loaded, and read so
    that they can be compared: with ``tokenizer`` where one is named
    (:func:`spinal.checkpoints.pair.prepare_sides`).

    Raises the errors of :mod:`spinal.checkpoints`, :func:`trace_checkpoint` and :func:`compare_traces`.
    """
    started = time.monotonic()
    found_prompts = None if prompts is None else find_prompts(prompts, ports)
    given = prepare_audit([reference, candidate] if control is None else [reference, candidate, control], tokenizer)
    with ExitStack() as stack:
        # From the first look to the last read: what is compared is what was traced.
        sides = [stack.enter_context(hold(s)).checkpoint if isinstance(s, Checkpoint) else s for s in given]
        _check_ids(sides, found_prompts, profile, ports)
        traced = [
            side if isinstance(side, Traced) else trace_checkpoint(side, _needed(found_prompts), profile, ports=ports)
            for side in sides
        ]
        return compare_traces(
            traced[0],
            traced[1],
            profile,
            ports=ports,
            prompts=found_prompts,
            control=None if control is None else traced[2],
            started=started,
        )


def _check_ids(
    sides: Sequence[Checkpoint | Traced], prompts: PromptSet | None, profile: MeasurementProfile, ports: Ports
) -> None:
    """Other ids on the prompts end a comparison before anything is measured; against traces they are told later."""
    checkpoints = [side for side in sides if isinstance(side, Checkpoint)]
    if prompts is not None and len(checkpoints) > 1:
        ports.engine().check_same_ids(checkpoints, prompts, profile)


def prepare_audit(
    sides: Sequence[Checkpoint | Traced], tokenizer: Checkpoint | None = None
) -> list[Checkpoint | Traced]:
    """The sides with every checkpoint as it has to be read beside the others, traced ones included. Raises the errors
    of :func:`spinal.checkpoints.pair.prepare_sides`."""
    checkpoints = [side for side in sides if isinstance(side, Checkpoint)]
    read = [side.trace.vocabulary.ids for side in sides if isinstance(side, Traced) and side.trace.vocabulary]
    prepared = iter(prepare_sides(checkpoints, tokenizer=tokenizer, at_most=min(read, default=None)))
    return [next(prepared) if isinstance(side, Checkpoint) else side for side in sides]


def find_prompts(prompts: PromptSet | str, ports: Ports) -> PromptSet:
    """The prompt set itself, or the one that the port finds by that name."""
    return ports.prompts(prompts) if isinstance(prompts, str) else prompts


def _needed(prompts: PromptSet | str | None) -> PromptSet | str:
    if prompts is None:
        raise ValueError("a checkpoint is measured on prompts, and none were given")
    return prompts


def _measure(
    checkpoint: Checkpoint,
    prompts: PromptSet,
    profile: MeasurementProfile,
    ports: Ports,
    capture_path: Path,
    show: ProgressSink,
    expected: str | None = None,
) -> Trace:
    trace = ports.engine().measure(
        checkpoint,
        prompts,
        profile,
        capture_path=capture_path,
        device=ports.device,
        stream=ports.stream,
        progress=show,
        cancelled=ports.cancelled,
        command=ports.command,
        edition=ports.edition,
        warm=ports.warm,
        write_capture=ports.write_capture,
    )
    if expected is not None and trace.digest != expected:
        raise ModelChanged(
            f"{checkpoint.source} changed while it was being measured", hint="submit again when its files are final"
        )
    return trace


def _evidence(
    reference: Traced,
    candidate: Traced,
    profile: MeasurementProfile,
    ports: Ports,
    prompts: PromptSet | str | None,
    show: ProgressSink,
) -> PairEvidence:
    if reference.checkpoint is None or candidate.checkpoint is None:
        return absent_evidence(reference.trace, candidate.trace, profile, NO_CHECKPOINT)
    sides = ((reference.checkpoint, reference.trace), (candidate.checkpoint, candidate.trace))
    with _as_traced(sides, ports, show) as (ours, theirs):
        return ports.engine().gather_evidence(
            ours,
            theirs,
            reference_capture=reference.capture,
            candidate_capture=candidate.capture,
            prompts=find_prompts(_needed(prompts), ports),
            profile=profile,
            device=ports.device,
            stream=ports.stream,
            progress=show,
            cancelled=ports.cancelled,
            warm=ports.warm,
        )


def _control_accounts(
    reference: Traced,
    control: Traced,
    profile: MeasurementProfile,
    ports: Ports,
    prompts: PromptSet | str | None,
    show: ProgressSink,
) -> tuple[AccountEvidence, ...] | None:
    """What carries the control's change from the reference; None where a checkpoint is not at hand."""
    if not profile.stitch_prompts:
        return ()
    if reference.checkpoint is None or control.checkpoint is None:
        return None
    sides = ((reference.checkpoint, reference.trace), (control.checkpoint, control.trace))
    with _as_traced(sides, ports, show) as (ours, theirs):
        return ports.engine().gather_accounts(
            ours,
            theirs,
            prompts=find_prompts(_needed(prompts), ports),
            profile=profile,
            device=ports.device,
            stream=ports.stream,
            progress=show,
            cancelled=ports.cancelled,
        )


@contextmanager
def _as_traced(
    sides: Sequence[tuple[Checkpoint, Trace]], ports: Ports, show: ProgressSink
) -> Iterator[list[Checkpoint]]:
    """The checkpoints, held, and what their traces were measured on from the first read to the last; raises
    ModelChanged."""
    with ExitStack() as stack:
        held = [stack.enter_context(hold(checkpoint)) for checkpoint, _ in sides]
        for each, (_, trace) in zip(held, sides, strict=True):
            _require_traced(each, trace, ports, show)
        yield [each.checkpoint for each in held]
        for each in held:
            each.require_unchanged()


def _shared(show: ProgressSink, share: float) -> tuple[ProgressSink, ProgressSink]:
    """Two sinks for two pieces of work, of which the first takes ``share`` of the whole."""

    def part(low: float, size: float) -> ProgressSink:
        return lambda told: show(replace(told, fraction=low + size * told.fraction))

    return part(0.0, share), part(share, 1.0 - share)


def _require_traced(held: Held, trace: Trace, ports: Ports, show: ProgressSink) -> None:
    """What is about to be compared has to be what the trace was measured on, read in the same way."""
    content = held.digest(progress=show, cancelled=ports.cancelled)
    if (content, reading_of(held.checkpoint)) != (trace.model.weights_digest, trace.reading):
        raise ModelChanged(
            f"{held.checkpoint.source} is not what its trace was measured on",
            hint="submit again when its files are final",
        )


def _as_of_today(trace: Trace, checkpoint: Checkpoint, prompts: PromptSet, profile: dict[str, object]) -> Trace:
    """A kept trace with what its digest leaves open as it would be written now: names, and the knobs that act on
    comparisons alone."""
    names = {"source": checkpoint.source, "revision": checkpoint.revision}
    known = {
        "model": trace.model.model_copy(update=names),
        "prompt_set": trace.prompt_set.model_copy(update={"name": prompts.name}),
        "profile": profile,
    }
    return trace.model_copy(update=known).remarked((*prompts.remarks, *checkpoint.remarks))
