"""One checkpoint -> one depth trace and its capture."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.held import Held, hold
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.pair import reading_of
from spinal.documents.base import Provenance
from spinal.documents.capture import ROWS_KEY, Capture, WriteCapture, capture_tensors, write_once
from spinal.documents.editions import PRESENT, Edition
from spinal.documents.provenance import make_provenance
from spinal.documents.trace import (
    NOTABLE,
    POSITIONS,
    EngineIdentity,
    ModelIdentity,
    PromptSetIdentity,
    Trace,
    VocabularyRead,
    stamp_profile,
    trace_digest,
)
from spinal.engine.assemble import build_capture, build_layers, prompt_means
from spinal.engine.behaviour import read_behaviour
from spinal.engine.contraction import NodeSpectrum, node_spectrum, split_prompts
from spinal.engine.failures import device_failures, system_errors
from spinal.engine.gather import gather_rows
from spinal.engine.memory import with_less_memory
from spinal.engine.nll import continuation_nll, row_targets
from spinal.engine.parity import check_parity
from spinal.engine.reporter import Reporter
from spinal.engine.session import Session, Setup, open_session
from spinal.engine.transport import LensResult, gap_of, mass_outside, read_lens, readout_digest, steps
from spinal.engine.warm import Lent
from spinal.profile import MeasurementProfile
from spinal.progress import CancelCheck, ProgressSink, ignore_progress, never_cancelled
from spinal.prompts.sets import PromptSet
from spinal.warm import Warm

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Walked:
    """What the walk through all nodes leaves: gathered residuals (N, K, d), spectra by positions and node."""

    rows: Tensor
    spectra: dict[str, list[NodeSpectrum]]
    continued: dict[int, Tensor]
    """By prompt read with its own continuation: residuals of the last node there (``RowGatherer.continued``)."""


@dataclass(frozen=True, eq=False)
class _Measured:
    """What was measured of one model, ahead of its documents."""

    content: str
    """Weights digest."""
    readout: str
    """Digest of the read-out."""
    walked: Walked
    parity: float
    """Mean distance (radians) between the lens at node D and the model's own output."""
    lens: LensResult
    nll: dict[int, float] | None
    """Nats per token of continuations by prompt; None where the set has none."""
    vocabulary: VocabularyRead
    beside: dict[str, Any]
    """Members of the capture that not every profile keeps."""


@dataclass(frozen=True, eq=False)
class _Made:
    """What one measurement leaves."""

    trace: Trace
    capture: Capture
    rows: Tensor


@device_failures()
def measure(
    checkpoint: Checkpoint,
    prompts: PromptSet,
    profile: MeasurementProfile,
    *,
    capture_path: Path,
    device: str = "cpu",
    stream: bool = False,
    progress: ProgressSink = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
    command: Sequence[str] | None = None,
    edition: Edition = PRESENT,
    warm: Warm | None = None,
    write_capture: WriteCapture = write_once,
) -> Trace:
    """Measure a checkpoint on prompts: its depth trace, and its capture for comparisons.

    Parameters
    ----------
    checkpoint, prompts, profile
        What is measured, on what, and how. Where memory does not suffice, half of ``profile.batch_size`` is worked
        with; the trace carries the profile that was asked for, and says so.
    capture_path : Path
        Where the capture is written, whole or not at all.
    device, stream
        As torch names it; whether blocks are read from disk one at a time, where the checkpoint allows it: same
        numbers, less memory.
    progress, cancelled
        Told at every step; asked at every step and between pieces of long ones.
    command, edition
        How the measurement was started, for the provenance; the edition that the trace is called by.
    warm : Warm, optional
        Where what is kept of a reference is found: where this checkpoint is read beside it, a comparison with it need
        not read it again. Same numbers.
    write_capture
        Carries out the write of the capture, and may repeat it while there is no room.

    Returns
    -------
    Trace
        Over nodes 0..D: alpha, L in radians, entropy in nats, with standard errors over prompts.

    Raises
    ------
    SpinalError
        ModelChanged where a file changed before the last read, the errors of :mod:`spinal.checkpoints` and
        :mod:`spinal.engine.load`, ArchitectureUnsupported, PromptSetInvalid, ContextExceeded, NonFiniteActivations,
        LensParityFailed, DeviceFailed, OutOfMemory, Cancelled.
    OSError
        The capture cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from spinal.checkpoints.resolve import resolve_reference
    >>> checkpoint = resolve_reference("examples/checkpoints/sft", roots=None)
    >>> prompts = PromptSet(("How do I plant a tree?", "Why is the sky blue?"), (None, None))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trace = measure(checkpoint, prompts, MeasurementProfile(), capture_path=Path(folder) / "capture")
    >>> trace.model.n_layers, trace.layers[24].positions["all"].transport > 0.0, trace.parity_rad < 1e-3
    (24, True, True)
    """
    started = time.monotonic()
    reporter, lent = Reporter(progress, cancelled), Lent(warm or Warm())

    def attempt(batch_size: int) -> _Made:
        setup = Setup(prompts, profile, batch_size, device, stream, reporter, edition)
        with torch.inference_mode(), hold(checkpoint) as held:
            return _measure(held, setup, lent, command, started)

    measured = with_less_memory(attempt, profile, device, lent.give_up)
    lent.succeeded()
    # The model is gone by now: the write may have to wait.
    write_capture(partial(_write_capture, measured, capture_path))
    reporter.step("store", 1, 1, (0.97, 1.0))
    return measured.trace


def _measure(held: Held, setup: Setup, lent: Lent, command: Sequence[str] | None, started: float) -> _Made:
    reporter = setup.reporter
    reporter.step("load", 0, 1, (0.0, 0.0))
    inspect(held.checkpoint)
    content = held.digest(progress=reporter.relay, cancelled=reporter.cancelled)
    session = open_session(held.checkpoint, setup)
    measured = _read(session, content, lent)
    held.require_unchanged()
    reporter.step("store", 0, 1, (0.97, 0.97))
    fingerprint = setup.asked.fingerprint_under(setup.edition.scheme)
    digest = trace_digest(
        content, setup.prompts.digest, fingerprint, setup.edition.engine, reading_of(session.loaded.checkpoint)
    )
    walked = measured.walked
    capture = build_capture(digest, session.gathered, measured.lens, walked.spectra, measured.nll, measured.beside)
    trace = _document(session, measured, capture, _provenance(session, command, started))
    return _Made(trace, capture, walked.rows.cpu().contiguous())


def _read(session: Session, content: str, lent: Lent) -> _Measured:
    """Walk, gate, lens and NLL of one model."""
    reporter = session.reporter
    walked = walk(session)
    parity = check_parity(session, walked.rows)
    reporter.step("lens", 0, 1, (0.75, 0.75))
    readout = readout_digest(session.readout)
    lens = _read_nodes(session, content, readout, walked.rows, lent)
    reporter.step("lens", 1, 1, (0.75, 0.92))
    vocabulary = _vocabulary_read(session, walked.rows)
    if not session.profile.reads_behaviour:
        return _Measured(content, readout, walked, parity, lens, continuation_nll(session), vocabulary, {})
    nll, beside = read_behaviour(session, walked.rows[-1], walked.continued)
    return _Measured(content, readout, walked, parity, lens, nll, vocabulary, beside)


def _read_nodes(session: Session, content: str, readout: str, rows: Tensor, lent: Lent) -> LensResult:
    """The lens at all nodes, gathered residuals ``rows`` (N, K, d), between each and the next, and between the first
    and the last. Read beside the nodes of a reference that is kept, the gap to it is known from then on."""
    nodes, check, targets = session.nodes, session.reporter.check, row_targets(session)
    pairs = [*steps(nodes), (0, nodes - 1)]
    lent.trace_of(session, content, readout)
    own = (session.readout, rows)
    if lent.is_reference(session, content):
        kept = lent.logits(session.readout, rows, traced=True)
        return read_lens([own], pairs, targets=targets, check=check, kept=[kept])
    beside = lent.beside(session)
    if beside is None:
        return read_lens([own], pairs, targets=targets, check=check)
    # Another read-out gives equal rows other logits: only under the very same one are they at distance exactly 0.
    theirs = session.readout if lent.reads_as(readout) else replace(session.readout)
    across = [(node, nodes + node) for node in range(nodes)]
    found = read_lens(
        # All that is asked of the reference is kept, and its read-out not.
        [(theirs, beside.rows), own],
        [*across, *((nodes + i, nodes + j) for i, j in pairs)],
        targets=targets,
        check=check,
        kept=[beside.logits, None],
    )
    lent.remember_gap(readout, rows, gap_of(found, nodes))
    return found.part(slice(nodes, None), slice(nodes, None))


def _vocabulary_read(session: Session, rows: Tensor) -> VocabularyRead:
    """Which ids the lens read, and what the model's own output gives those beyond; ``rows`` (N, K, d) are the gathered
    residuals."""
    readout, reporter = session.readout, session.reporter
    if readout.vocabulary == session.anatomy.vocabulary:
        return VocabularyRead(ids=readout.vocabulary, outside=0.0)
    outside = mass_outside(readout, rows[-1], reporter.check)
    share = prompt_means(outside[None], session.gathered, "all").mean()
    return VocabularyRead(ids=readout.vocabulary, outside=min(float(share), 1.0))


def walk(session: Session) -> Walked:
    """All prompts through one block at a time, gathering rows and spectra at every node; raises
    NonFiniteActivations, ArchitectureUnsupported, Cancelled."""
    profile, prompts, edition = session.profile, session.prompts, session.setup.edition
    kept, pooled_rows = gather_rows(session, session.source)
    split = split_prompts(prompts, profile.jackknife_groups)
    spectra: dict[str, list[NodeSpectrum]] = {positions: [] for positions in POSITIONS}
    for node, pooled in enumerate(pooled_rows):
        last = kept.rows[node, kept.last]
        for positions, rows, prompt in (("last", last, kept.last_prompt), ("all", pooled, kept.all_prompt)):
            spectra[positions].append(node_spectrum(rows, prompt, prompts, split, profile, edition))
        session.reporter.step("walk", node, session.nodes - 1, (0.05, 0.75))
    return Walked(kept.rows, spectra, kept.continued)


def _document(session: Session, measured: _Measured, capture: Capture, provenance: Provenance) -> Trace:
    setup, tokens, walked = session.setup, session.tokens, measured.walked
    layers = build_layers(measured.lens, walked.spectra, session.gathered, capture, setup.asked)
    scored = capture.nll[np.isfinite(capture.nll)]
    return Trace(
        digest=capture.trace_digest,
        model=_identity(session, measured),
        prompt_set=PromptSetIdentity(
            digest=setup.prompts.digest,
            name=setup.prompts.name,
            count=session.prompts,
            truncated=tokens.truncated,
            tokens=tokens.total,
            token_ids_digest=tokens.digest,
            continuation_ids_digest=tokens.continuation_digest,
        ),
        profile=stamp_profile(setup.asked, setup.edition),
        engine=EngineIdentity(
            version=setup.edition.engine,
            device=provenance.device,
            dtype=provenance.dtype,
            torch=torch.__version__,
            transformers=transformers.__version__,
        ),
        parity_rad=measured.parity,
        nll=float(scored.mean()) if scored.size else None,
        nll_source=("continuations" if measured.nll is not None else "prompts") if scored.size else None,
        non_finite=0,
        layers=layers,
        warnings=(
            *_of_vocabulary(session, measured.vocabulary),
            *_of_memory(setup),
            *session.remarks,
            *_warnings(session, walked),
        ),
        provenance=provenance,
        reading=reading_of(session.loaded.checkpoint),
        vocabulary=measured.vocabulary,
    )


def _of_vocabulary(session: Session, read: VocabularyRead) -> tuple[str, ...]:
    if session.loaded.checkpoint.vocabulary is None and read.outside < NOTABLE:
        return ()
    return (read.remark(session.anatomy.vocabulary),)


def _of_memory(setup: Setup) -> tuple[str, ...]:
    if setup.batch_size == setup.asked.batch_size:
        return ()
    return (
        f"measured {setup.batch_size} prompts at a time instead of {setup.asked.batch_size}, for lack of memory: "
        "single positions differ by rounding (up to 5e-3 in 16 bits), so equal blocks may no longer differ by "
        "exactly 0",
    )


def _warnings(session: Session, walked: Walked) -> tuple[str, ...]:
    found = list(session.tokens.remarks)
    if session.tokens.truncated:
        found.append(f"{session.tokens.truncated} of {session.prompts} prompts were cut to their last tokens")
    for positions in POSITIONS:
        node = walked.spectra[positions][-1]
        if node.rows < 2 * node.dimensions:
            found.append(
                f"policy {positions}: {node.rows} rows for {node.dimensions} dimensions (n < 2d): alpha is "
                "underdetermined, its differences are attenuated or inflated by x1.03-1.26"
            )
    return tuple(found)


def _identity(session: Session, measured: _Measured) -> ModelIdentity:
    loaded = session.loaded
    config = loaded.model.config.get_text_config()
    embedding: Tensor = loaded.model.get_input_embeddings().weight  # type: ignore[assignment]  # an nn.Embedding
    return ModelIdentity(
        source=session.source,
        revision=loaded.checkpoint.revision,
        weights_digest=measured.content,
        architecture=type(loaded.model).__name__,
        n_layers=len(session.anatomy.blocks),
        hidden_size=int(config.hidden_size),
        vocab_size=session.anatomy.vocabulary,
        tied_embeddings=embedding.data_ptr() == session.anatomy.head_weight.data_ptr(),
        readout_digest=measured.readout,
    )


def _provenance(session: Session, command: Sequence[str] | None, started: float) -> Provenance:
    device = str(session.device)
    return make_provenance(
        device=f"{device} ({torch.cuda.get_device_name()})" if session.device.type == "cuda" else device,
        dtype=session.dtype,
        threads=torch.get_num_threads(),
        seed=session.setup.asked.seed,
        command=command,
        started=started,
        edition=session.setup.edition,
    )


def _write_capture(made: _Made, path: Path) -> None:
    """Write under a temporary name, flush to disk, rename: a capture is whole or absent."""
    arrays, metadata = capture_tensors(made.capture)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()} | {ROWS_KEY: made.rows}
    half = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with system_errors(half):
            save_file(tensors, half, metadata=metadata)
        with half.open("rb+") as stream:
            os.fsync(stream.fileno())
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
