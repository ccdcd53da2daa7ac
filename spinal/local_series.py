"""A training run measured in this process, without a server: what ``spinal.series()`` and ``spinal series`` do.

Every checkpoint is compared with the reference like any pair. The reference is traced once; what was compared before on
this machine is not compared again, and where all of it was, nothing here brings torch into the process.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from spinal.analysis.compare import comparison_digest
from spinal.audit import Ports, Traced, Watch, audit_pair, prepare_audit, trace_checkpoint
from spinal.cache.comparisons import Comparisons, open_comparisons
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.held import Held, hold
from spinal.checkpoints.pair import reading_of
from spinal.checkpoints.settings import setting_differences
from spinal.documents.comparison import ComparisonContent
from spinal.documents.editions import PRESENT
from spinal.documents.policy import Policy
from spinal.documents.series import Series, SeriesSettings
from spinal.documents.trace import trace_digest
from spinal.elsewhere import copies_of
from spinal.errors import (
    AdapterInvalid,
    ArchitectureUnsupported,
    ConfigInvalid,
    LensParityFailed,
    ModelChanged,
    NonFiniteActivations,
    NonFiniteWeights,
    PairMismatch,
    PickleWeightsRefused,
    QuantizationUnsupported,
    RemoteCodeRefused,
    SpinalError,
    TokenizerInvalid,
    TokenizerMismatch,
    UsageError,
    WeightsCorrupt,
    WeightsMissing,
)
from spinal.given import Prompts, profile_of_sides, prompts_of_sides
from spinal.local import open_ports
from spinal.machine import CAN_LOCK, KnownConditions, Machine
from spinal.policy.decide import judged
from spinal.policy.judge import AnyPolicy, find_policy
from spinal.policy.series import Member, assess
from spinal.profile import CompareKnobs, MeasurementProfile
from spinal.progress import Progress, ProgressSink
from spinal.prompts.builtin import DEFAULT_SET
from spinal.prompts.sets import PromptSet
from spinal.series_members import Checkpoints, Place, find_places
from spinal.sides import NOWHERE_ELSE, PathName, Places, require_use
from spinal.warm import WARM_BYTES, Warm

OF_ONE_CHECKPOINT: tuple[type[SpinalError], ...] = (
    AdapterInvalid, ArchitectureUnsupported, ConfigInvalid, LensParityFailed, ModelChanged, NonFiniteActivations,
    NonFiniteWeights, PairMismatch, PickleWeightsRefused, QuantizationUnsupported, RemoteCodeRefused, TokenizerInvalid,
    TokenizerMismatch, WeightsCorrupt, WeightsMissing,
)  # fmt: skip
"""What may be wrong with one checkpoint of a run and with no other: one half written, one that diverged. It is a member
that failed, with its reason; anything else ends the whole."""
TRACE_SHARE = 0.4
"""Of the work on one checkpoint, that of its trace; the rest compares. The reference takes as much as a trace."""
HALF_WRITTEN = (ConfigInvalid, WeightsMissing, WeightsCorrupt, ModelChanged)


@dataclass(frozen=True)
class Plan:
    """What a series takes, known before anything is measured."""

    members: int
    kept: int
    """Compared before, and kept."""
    failed: tuple[tuple[int, str], ...] = ()
    """Step and reason of those that cannot be measured."""
    remarks: tuple[str, ...] = ()

    @property
    def to_measure(self) -> int:
        return self.members - self.kept - len(self.failed)


@dataclass(frozen=True)
class Told:
    """What a caller who watches hears beside the progress of each piece of work."""

    plan: Callable[[Plan], None] = lambda _: None
    measured: Callable[[int], None] = lambda _: None
    """After each checkpoint that was measured, its step."""


NOBODY = Told()


def series(
    reference: PathName,
    checkpoints: Checkpoints,
    *,
    prompts: Prompts = DEFAULT_SET,
    policy: AnyPolicy | None = None,
    plateau_from: int | None = None,
    labels: Mapping[str, str] | None = None,
    base: PathName | None = None,
    tokenizer: PathName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    stream: bool = False,
    cache: bool = True,
    sources: PathName | None = None,
    **knobs: Unpack[CompareKnobs],
) -> Series:
    """Say when a training run begins to destabilise, from its checkpoints against one reference, in this process.

    Every checkpoint is compared with the reference; the reference is traced once. Comparisons and traces are kept in
    the cache of this user (``$XDG_CACHE_HOME/spinal``): a second call measures nothing and needs no torch, and a
    checkpoint more measures only itself.

    Parameters
    ----------
    reference : str or path-like
        Folder or reference of the checkpoint that the run began from, or of another that it is held against.
    checkpoints : str, path-like, sequence of them, or mapping
        A folder that holds ``checkpoint-N``, as the Hugging Face trainer saves; checkpoints whose names end in their
        step; ``"40=PATH"``; or checkpoints by step, ``{40: PATH}``. In any order. One that lives elsewhere is given
        its step: ``"40=hf:org/name@revision"``.
    prompts : as for :func:`spinal.trace`
        What all checkpoints are measured on.
    policy : as for :func:`spinal.judge`
        Its limits say what counts as damage, ``"spinal-default/2"`` where absent.
    plateau_from : int, optional
        First step of a plateau that you have approved: from there on a CUSUM looks for slow drift, and nowhere else.
    labels : mapping of str to str, optional
        Kept in the document.
    base, tokenizer, device, threads, stream, cache, sources, **knobs
        As for :func:`spinal.compare`.

    Returns
    -------
    Series
        ``status``, ``onset_step``, the alarms with their steps, every signal over the steps, and the members. One that
        could not be measured is a member that ``failed``, with its reason. See ``docs/series.md``.

    Raises
    ------
    UsageError, ModelNotFound
        There are no checkpoints, one has no step, two have the same, or one is not there: before anything is read.
    SpinalError
        As for :func:`spinal.compare`, where the reference, the prompts or this machine is at fault; and the first
        checkpoint's error where none of them can be measured.

    Examples
    --------
    >>> import spinal
    >>> prompts = [f"Human: how do I plant tree number {n}?" for n in range(24)]
    >>> quick = {"max_tokens": 16, "lens_positions": 2, "swap_prompts": 8, "stitch_prompts": 0}
    >>> run = {10: "examples/checkpoints/dpo-short"}
    >>> found = spinal.series("examples/checkpoints/sft", run, prompts=prompts, **quick)
    >>> found.status, [(member.step, member.state) for member in found.members]
    ('insufficient_series', [(10, 'measured')])
    """
    machine = Machine(device, threads, stream, cache)
    return series_here(
        reference, checkpoints, prompts, knobs, machine, policy=policy, plateau_from=plateau_from, labels=labels,
        places=Places(base, tokenizer, sources),
    )  # fmt: skip


def series_here(
    reference: PathName,
    checkpoints: Checkpoints,
    prompts: Prompts,
    knobs: Mapping[str, Any],
    machine: Machine,
    *,
    policy: AnyPolicy | None = None,
    plateau_from: int | None = None,
    labels: Mapping[str, str] | None = None,
    places: Places = NOWHERE_ELSE,
    told: Told = NOBODY,
) -> Series:
    """:func:`series` with all that a command line adds."""
    asked = find_policy(policy)
    run = find_places(checkpoints)
    settings = _settings(plateau_from, run.members[-1].step)
    profile = profile_of_sides([], knobs)
    chosen = prompts_of_sides([], prompts, measuring=True)
    assert chosen is not None
    known = KnownConditions(machine)
    with ExitStack() as stack:
        places = replace(places, copies=stack.enter_context(copies_of(machine, places.sources)))
        named = places.resolve(reference, base=places.find_base())
        kept = stack.enter_context(_comparisons(known)) if machine.cache and CAN_LOCK else None
        work = _Work(named, places, chosen, profile, machine, known, kept, stack)
        found = [work.look(number, len(run.members), place) for number, place in enumerate(run.members, start=1)]
        work.require_sense(found)
        told.plan(
            Plan(
                members=len(found),
                kept=sum(one.content is not None for one in found),
                failed=tuple((one.place.step, _reason(one.error)) for one in found if one.error is not None),
                remarks=run.remarks,
            )
        )
        waiting = [one for one in found if one.content is None and one.error is None]
        for number, one in enumerate(waiting):
            work.measure(one, number, len(waiting))
            told.measured(one.place.step)
        work.require_sense(found)
        made = assess(named.source, [one.member(asked) for one in found], asked, settings, labels=labels)
    return made.model_copy(update={"remarks": (*made.remarks, *run.remarks)}) if run.remarks else made


def _settings(plateau_from: int | None, last: int) -> SeriesSettings:
    if plateau_from is None:
        return SeriesSettings()
    if not 0 <= plateau_from <= last:
        raise UsageError(
            f"no checkpoint is on a plateau from step {plateau_from} on: the last one has step {last}",
            hint="name a step from which on the run was flat, and that you have looked at",
        )
    return SeriesSettings(plateau_from_step=plateau_from)


@contextmanager
def _comparisons(known: KnownConditions) -> Iterator[Comparisons | None]:
    with open_comparisons(known) as kept:
        yield kept


@dataclass
class _One:
    """One checkpoint of the run, as far as it is known."""

    place: Place
    checkpoint: Checkpoint | None = None
    """As it is read beside the reference."""
    reference: "_Reference | None" = None
    content: ComparisonContent | None = None
    error: SpinalError | None = None
    digest: str = ""
    """Of its comparison, once it is looked for."""

    def member(self, policy: Policy | None) -> Member:
        source = self.place.name if self.checkpoint is None else self.checkpoint.source
        if self.content is None:
            assert self.error is not None
            return Member(self.place.step, source, "failed", reason=_reason(self.error))
        verdict = judged(self.content, policy).verdict
        return Member(self.place.step, source, "measured", content=self.content, verdict=verdict)


@dataclass
class _Reference:
    """The reference as it is read beside some of the run: up to the ids that both know, with whose tokenizer."""

    prepared: Checkpoint
    held: Held
    traced: Traced | None = None


@dataclass
class _Work:
    """The work on one series."""

    named: Checkpoint
    places: Places
    prompts: PromptSet
    profile: MeasurementProfile
    machine: Machine
    known: KnownConditions
    kept: Comparisons | None
    stack: ExitStack
    """Holds the reference open from the first look to the last read."""
    references: list[_Reference] = field(default_factory=list)
    warm: Warm = field(default_factory=lambda: Warm(WARM_BYTES))
    """What one comparison leaves of the reference for the next."""

    def look(self, number: int, of: int, place: Place) -> _One:
        """Check one checkpoint, and look whether it was compared before. No weights are loaded."""
        one = _One(place)
        base, tokenizer = self.places.find_base(), self.places.find_tokenizer()
        with self.machine.watch(f"step {place.step} ({number} of {of})") as show, self._failing(one):
            resolved = self.places.resolve(place.path, base=base, instead=self.named)
            one.checkpoint = resolved
            prepared, checkpoint = prepare_audit([self.named, resolved], tokenizer)
            assert isinstance(prepared, Checkpoint)
            assert isinstance(checkpoint, Checkpoint)
            one.checkpoint, one.reference = checkpoint, self._reference(prepared)
            if self.kept is not None:
                with hold(checkpoint) as held:
                    one.digest = self._digest(one.reference.held, held, show)
                    one.content = self.kept.find(one.digest, self._said(prepared, checkpoint))
                    held.require_unchanged()
        return one

    def measure(self, one: _One, number: int, of: int) -> None:
        """Compare one checkpoint with the reference, and keep what was found."""
        reference, checkpoint = one.reference, one.checkpoint
        assert reference is not None
        assert checkpoint is not None
        label, whole = f"step {one.place.step} ({number + 1} of {of})", of + TRACE_SHARE
        watch = _within(self.machine.watch, label, (number + TRACE_SHARE) / whole, 1.0 / whole)
        with self._failing(one):
            traced = self._traced(reference, TRACE_SHARE / whole)
            with self._ports(watch) as ports, hold(checkpoint) as held:
                sides = [reference.held.checkpoint, held.checkpoint]
                ports.engine().check_same_ids(sides, self.prompts, self.profile)
                found = audit_pair(traced, held.checkpoint, self.prompts, self.profile, ports=ports)
                held.require_unchanged()
            one.content = found
            if self.kept is not None:
                self.kept.keep(found, self._said(reference.prepared, checkpoint))

    def require_sense(self, found: list[_One]) -> None:
        """Raise the first error where no checkpoint can be measured: then none of them is at fault."""
        read = [one.checkpoint for one in found if one.checkpoint is not None]
        if read:
            require_use(self.places, [self.named, *read])
        errors = [one.error for one in found if one.error is not None]
        if len(errors) == len(found):
            raise errors[0]

    def _traced(self, reference: _Reference, share: float) -> Traced:
        if reference.traced is None:
            watch = _within(self.machine.watch, "reference", 0.0, share / TRACE_SHARE)
            # Its capture stays in place until the end of the series.
            ports = self.stack.enter_context(self._ports(watch))
            reference.traced = trace_checkpoint(reference.held.checkpoint, self.prompts, self.profile, ports=ports)
        return reference.traced

    @contextmanager
    def _ports(self, watch: Watch) -> Iterator[Ports]:
        with open_ports(replace(self.machine, watch=watch), self.known) as (ports, _):
            yield replace(ports, warm=self.warm)

    def _reference(self, prepared: Checkpoint) -> _Reference:
        for known in self.references:
            if known.prepared == prepared:
                return known
        made = _Reference(prepared, self.stack.enter_context(hold(prepared)))
        self.references.append(made)
        return made

    @contextmanager
    def _failing(self, one: _One) -> Iterator[None]:
        """Let what is wrong with this one checkpoint be told of it, and whatever else is wrong end the whole."""
        try:
            yield
        except OF_ONE_CHECKPOINT as error:
            for reference in self.references:
                reference.held.require_unchanged()
            self._require_reference()
            one.error = error

    def _require_reference(self) -> None:
        """Raise what is wrong with the reference by itself."""
        with suppress(TokenizerInvalid):
            # Without a tokenizer of its own it may be read with that of the run.
            prepare_audit([self.named], self.places.find_tokenizer())

    def _digest(self, reference: Held, candidate: Held, show: ProgressSink) -> str:
        """Digest of the comparison of two held checkpoints. Reads their weights, of the reference once."""
        traces = []
        for held in (reference, candidate):
            content = held.digest(progress=show)
            fingerprint = self.profile.fingerprint_under(PRESENT.scheme)
            reading = reading_of(held.checkpoint)
            traces.append(trace_digest(content, self.prompts.digest, fingerprint, PRESENT.engine, reading))
        differing = setting_differences(reference.checkpoint, candidate.checkpoint)
        return comparison_digest(traces[0], traces[1], self.profile, settings=differing)

    def _said(self, *sides: Checkpoint) -> list[str | None]:
        """Whatever a comparison repeats of how its sides and prompts are called."""
        of_sides = [text for side in sides for text in (side.source, side.revision, *side.remarks)]
        return [*of_sides, self.prompts.name, *self.prompts.remarks]


def _within(watch: Watch, label: str, low: float, size: float) -> Watch:
    """A watch for the pieces of work on one checkpoint, whose fractions are those of the whole series."""
    pieces = 0

    @contextmanager
    def part(inner: str) -> Iterator[ProgressSink]:
        nonlocal pieces
        begins, share = ((0.0, TRACE_SHARE), (TRACE_SHARE, 1.0 - TRACE_SHARE))[min(pieces, 1)]
        pieces += 1
        with watch(f"{label}, {inner}") as show:
            yield lambda told: show(_moved(told, low + size * begins, size * share))

    return part


def _moved(told: Progress, low: float, size: float) -> Progress:
    return replace(told, fraction=low + size * told.fraction)


def _reason(error: SpinalError) -> str:
    """Why a checkpoint was not measured, and what to do where it may not have been whole yet."""
    again = "; run it again when its files are final" if isinstance(error, HALF_WRITTEN) else ""
    return f"{error.detail}{again}"
