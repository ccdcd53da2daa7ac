"""Measuring in this process, without a server: what ``spinal.trace()``, ``spinal.compare()`` and the command line do.

Needs the extra ``local`` (torch, transformers), but only once something has to be measured: comparing two stored traces
whose captures are still kept does without.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from spinal.audit import (
    Ports,
    Traced,
    audit_pair,
    temporary_captures,
    trace_checkpoint,
)
from spinal.documents.comparison import Comparison
from spinal.documents.display import short_digest
from spinal.documents.trace import Trace
from spinal.elsewhere import copies_of
from spinal.errors import (
    CaptureMissing,
    StorageUnavailable,
)
from spinal.given import Prompts, make_profile, profile_of_sides, prompts_of_sides, read_prompts
from spinal.machine import CAN_LOCK, KnownConditions, Machine
from spinal.policy.decide import judged
from spinal.policy.judge import AnyComparison, AnyPolicy, find_comparison, find_policy
from spinal.profile import CompareKnobs, TraceKnobs
from spinal.prompts.builtin import DEFAULT_SET
from spinal.sides import NOWHERE_ELSE, PathName, Places, find_checkpoint, find_sides

if TYPE_CHECKING:
    from spinal.cache import Cache

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def trace(
    model: PathName,
    *,
    prompts: Prompts = DEFAULT_SET,
    base: PathName | None = None,
    tokenizer: PathName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    stream: bool = False,
    cache: bool = True,
    sources: PathName | None = None,
    **knobs: Unpack[TraceKnobs],
) -> Trace:
    """Measure the depth trace of one checkpoint in this process.

    A trace that was measured before - same weights, prompts, knobs, engine and conditions - comes from the cache of
    this user (``$XDG_CACHE_HOME/spinal``), with the provenance of its measurement.

    Parameters
    ----------
    model : str or path-like
        Folder of a checkpoint in Hugging Face layout with safetensors weights, or of a PEFT adapter beside its base; or
        where one lives elsewhere, for example ``hf:org/name@revision``.
    prompts : str, path-like, sequence of str, of records or of messages, or PromptSet, default "hh-harmless-512"
        A built-in set by name, a file (text, JSON, CSV with a header, Parquet; gzip accepted), or the prompts
        themselves, as text, as the messages of chats, or as records with ``prompt`` and what else is known of it
        (``continuation``, ``rejected``, ``refusal``, ``category``).
    base : str or path-like, optional
        Folder or reference of the base of an adapter, whatever its configuration names.
    tokenizer : str or path-like, optional
        Folder or reference whose tokenizer reads the prompts, where the checkpoint has none or another is meant.
    device : str, default "cpu"
        torch device, for example ``"cuda:0"``.
    threads : int, optional
        Threads of tensor operations; torch's own choice where absent.
    stream : bool, default False
        Read the blocks from disk one at a time: same numbers, less memory.
    cache : bool, default True
        Whether to look in the cache, and to keep what is measured and fetched.
    sources : str or path-like, optional
        File that says which hubs, registries and buckets may be used, and with what credentials; by default the public
        hub without any (``docs/sources.md``). Nothing of it is taken from the environment.
    **knobs
        Fields of :class:`spinal.profile.MeasurementProfile`, for example ``max_tokens=256``.

    Returns
    -------
    Trace
        Contraction alpha, transport L (radians, 0..pi), entropy (nats) and their companions at nodes 0..D, at positions
        ``last`` and ``all``. See ``docs/method.md``.

    Raises
    ------
    UsageError
        The extra ``local`` is not installed, or ``sources`` cannot be read or used.
    ProfileInvalid
        A knob is unknown or out of range.
    SpinalError
        Its subclasses for checkpoints (:mod:`spinal.errors.checkpoints`) and where they live
        (:mod:`spinal.errors.sources`), prompts (:mod:`spinal.errors.documents`) and the measurement
        (:mod:`spinal.errors.measuring`).

    Examples
    --------
    >>> import spinal
    >>> prompts = [f"Human: how do I plant tree number {n}?" for n in range(24)]
    >>> found = spinal.trace("examples/checkpoints/sft", prompts=prompts, max_tokens=16, lens_positions=2)
    >>> found.model.n_layers, len(found.layers)
    (24, 25)
    >>> 0 <= found.layers[1].positions["all"].transport <= 3.1416
    True
    """
    machine = Machine(device=device, threads=threads, stream=stream, cache=cache)
    return trace_here(model, prompts, knobs, machine, Places(base, tokenizer, sources))


def compare(
    reference: PathName | Trace,
    candidate: PathName | Trace,
    *,
    prompts: Prompts | None = None,
    control: PathName | Trace | None = None,
    policy: AnyPolicy | None = None,
    former: AnyComparison | None = None,
    base: PathName | None = None,
    tokenizer: PathName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    stream: bool = False,
    cache: bool = True,
    sources: PathName | None = None,
    **knobs: Unpack[CompareKnobs],
) -> Comparison:
    """Compare a candidate with its reference in this process: differences are candidate minus reference.

    Each side is a checkpoint, which is traced, or a trace, as a document or a file. Traces alone give every difference
    that they and their captures hold, with its interval; what needs the weights of both sides (block swap, function
    gap, structural signals) is then null with reason ``checkpoint_not_at_hand``, and the verdict ``inconclusive``. The
    capture of a trace must still be in the cache here. Prompts have to become the same token ids on all sides.

    Parameters
    ----------
    reference, candidate : str, path-like or Trace
        Folder or reference of a checkpoint, file of a ``spinal.trace/1`` document, or such a document.
    prompts : str, path-like, sequence of str or PromptSet, optional
        As for :func:`trace`. By default ``"hh-harmless-512"`` or, where a side is a trace, the built-in set of that.
    control : str, path-like or Trace, optional
        What the candidate is contrasted with, for example its twin that was fine-tuned without preferences.
    policy, former
        The rules of the verdict, and what they read ``former.`` values against, as for :func:`spinal.judge`.
    base, tokenizer, device, threads, stream, cache, sources
        As for :func:`trace`, for every side that is not a trace.
    **knobs
        Fields of :class:`spinal.profile.MeasurementProfile`, those of comparisons included, for example
        ``swap_prompts=64``, ``stitch_prompts=0`` (no accounts). Where a side is a trace, its own for the measurement.

    Returns
    -------
    Comparison
        Every difference layer by layer with 95% intervals over prompts; what carries the change (``accounts``) beside
        what computes something else (``localization``), in words (``statements``); damage, a verdict (docs/method.md).

    Raises
    ------
    CaptureMissing, FingerprintMismatch, TracesNotComparable, PairMismatch, TokenizerMismatch
        The capture of a trace is not in the cache here; or the sides do not belong together.
    DocumentInvalid, UsageError, ProfileInvalid, SpinalError
        As for :func:`spinal.judge`, before anything is measured, and :func:`trace`.

    Examples
    --------
    >>> import spinal
    >>> prompts = [f"Human: how do I plant tree number {n}?" for n in range(24)]
    >>> pair = "examples/checkpoints/sft", "examples/checkpoints/dpo-short"
    >>> found = spinal.compare(*pair, prompts=prompts, max_tokens=16, lens_positions=2, swap_prompts=8)
    >>> swapped = found.layers[24].block_swap
    >>> swapped.ci[0] <= swapped.value <= swapped.ci[1]
    True

    Two traces, without the checkpoints:

    >>> traces = [spinal.trace(side, prompts=prompts, max_tokens=16, lens_positions=2) for side in pair]
    >>> apart = spinal.compare(*traces)
    >>> apart.layers[24].d_transport == found.layers[24].d_transport
    True
    >>> apart.layers[24].block_swap.reason, apart.verdict.outcome
    ('checkpoint_not_at_hand', 'inconclusive')
    """
    asked, before = find_policy(policy), None if former is None else find_comparison(former)
    machine, places = Machine(device, threads, stream, cache), Places(base, tokenizer, sources)
    found = compare_here(reference, candidate, prompts, knobs, machine, control=control, places=places)
    return found if asked is None else judged(found, asked, former=before)


def trace_here(
    model: PathName, prompts: Prompts, knobs: Mapping[str, Any], machine: Machine, places: Places = NOWHERE_ELSE
) -> Trace:
    """:func:`trace` with all that a command line adds."""
    profile = make_profile(knobs)
    chosen = read_prompts(prompts)
    with copies_of(machine, places.sources) as copies, open_ports(machine) as (ports, _):
        checkpoint = find_checkpoint(model, replace(places, copies=copies))
        return trace_checkpoint(checkpoint, chosen, profile, ports=ports).trace


def compare_here(
    reference: PathName | Trace,
    candidate: PathName | Trace,
    prompts: Prompts | None,
    knobs: Mapping[str, Any],
    machine: Machine,
    *,
    control: PathName | Trace | None = None,
    places: Places = NOWHERE_ELSE,
) -> Comparison:
    """:func:`compare` with all that a command line adds."""
    with copies_of(machine, places.sources) as copies:
        places = replace(places, copies=copies)
        sides = find_sides([reference, candidate, *(() if control is None else (control,))], places)
        documents = [side for side in sides if isinstance(side, Trace)]
        profile = profile_of_sides(documents, knobs)
        chosen = prompts_of_sides(documents, prompts, measuring=len(documents) < len(sides))
        with open_ports(machine) as (ports, cache):
            found = [_traced(side, cache) if isinstance(side, Trace) else side for side in sides]
            return audit_pair(
                found[0],
                found[1],
                chosen,
                profile,
                ports=ports,
                control=None if control is None else found[2],
                tokenizer=places.find_tokenizer(),
            )


def _traced(document: Trace, cache: "Cache | None") -> Traced:
    """The document with its capture; raises CaptureMissing where the cache does not hold it."""
    found = None if cache is None else cache.find_document(document)
    if found is None:
        raise CaptureMissing(
            f"the capture of {document.model.source} (trace {short_digest(document.digest)}) is not in the cache of "
            "this machine, and without it no difference has an interval",
            hint="compare the checkpoint folders, or trace the checkpoint here with the same prompts and knobs: that "
            "keeps its capture. Differences without intervals: spinal.analysis.diff.diff_traces",
        )
    return found


@contextmanager
def open_ports(machine: Machine, conditions: KnownConditions | None = None) -> Iterator[tuple[Ports, "Cache | None"]]:
    """The procedure's ports on this machine, and the cache where there is one; ``conditions`` are those that work on
    several things shares."""
    known = KnownConditions(machine) if conditions is None else conditions
    with ExitStack() as stack:
        cache = stack.enter_context(_cache(known)) if machine.cache else None
        ports = Ports(
            captures=cache if cache is not None else stack.enter_context(temporary_captures()),
            engine=known.engine,
            watch=machine.watch,
            device=machine.device,
            stream=machine.stream,
            command=machine.command,
        )
        try:
            yield ports, cache
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise StorageUnavailable(
                f"{os.strerror(error.errno)}: {error.filename or 'while writing a capture'}",
                hint="make room where captures are written: $XDG_CACHE_HOME or ~/.cache, without the cache $TMPDIR",
            ) from error


@contextmanager
def _cache(conditions: KnownConditions) -> Iterator["Cache | None"]:
    if not CAN_LOCK:
        yield None
        return
    from spinal.cache import open_cache

    with open_cache(conditions) as cache:
        yield cache
