"""One checkpoint -> one depth trace and its capture."""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.identity import weights_digest
from spinal.checkpoints.inspect import inspect
from spinal.documents.base import Provenance
from spinal.documents.capture import ROWS_KEY, Capture, capture_tensors
from spinal.documents.provenance import make_provenance
from spinal.documents.trace import (
    ENGINE_VERSION,
    POLICIES,
    EngineIdentity,
    ModelIdentity,
    PromptSetIdentity,
    Trace,
    stamp_profile,
    trace_digest,
)
from spinal.engine.anatomy import Anatomy, find_anatomy
from spinal.engine.assemble import build_capture, build_layers
from spinal.engine.contraction import NodeSpectrum, node_spectrum, split_prompts
from spinal.engine.failures import device_failures, system_errors
from spinal.engine.gather import RowGatherer
from spinal.engine.load import LoadedModel, load
from spinal.engine.memory import with_less_memory
from spinal.engine.nll import continuation_nll, row_targets
from spinal.engine.parity import check_parity
from spinal.engine.reporter import Reporter
from spinal.engine.slices import slices
from spinal.engine.tokens import GatheredRows, Tokens, lens_rows, make_batches, tokenize
from spinal.engine.transport import LensResult, Readout, read_lens
from spinal.engine.walk import node_residuals, prepare
from spinal.profile import MeasurementProfile
from spinal.progress import CancelCheck, ProgressSink, ignore_progress, never_cancelled
from spinal.prompts.sets import PromptSet

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Walked:
    """What the walk through all nodes leaves: gathered rows (N, K, d) and spectra per policy and node."""

    rows: Tensor
    spectra: dict[str, list[NodeSpectrum]]


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
) -> Trace:
    """Measure ``checkpoint`` on ``prompts`` and write its capture to ``capture_path`` (atomically). ``stream`` reads
    the blocks from disk one at a time where the checkpoint allows it: same numbers, less memory.

    Raises the errors of :mod:`spinal.checkpoints` and :mod:`spinal.engine.load`, ContextExceeded,
    NonFiniteActivations, LensParityFailed, OutOfMemory, Cancelled.
    """
    started = time.monotonic()
    reporter = Reporter(progress, cancelled)

    def attempt(batch_size: int) -> Trace:
        working = profile.model_copy(update={"batch_size": batch_size})
        with torch.inference_mode():
            return _measure(
                checkpoint, prompts, profile, working, capture_path, device, stream, reporter, command, started
            )

    return with_less_memory(attempt, profile, device)


def _measure(
    checkpoint: Checkpoint,
    prompts: PromptSet,
    profile: MeasurementProfile,
    working: MeasurementProfile,
    capture_path: Path,
    device: str,
    stream: bool,
    reporter: Reporter,
    command: Sequence[str] | None,
    started: float,
) -> Trace:
    reporter.step("load", 0, 1, (0.0, 0.0))
    inspect(checkpoint)
    content = weights_digest(checkpoint, progress=reporter.relay, cancelled=reporter.cancelled)
    loaded = load(checkpoint, profile, device, stream=stream)
    tokens = tokenize(loaded, prompts, profile)
    anatomy = find_anatomy(loaded.model, _layers(checkpoint), checkpoint.source, loaded.store)
    readout = Readout(anatomy, min(len(loaded.tokenizer), anatomy.vocabulary))
    gathered = lens_rows(tokens.ids, profile.lens_positions)
    walked = walk(loaded, anatomy, tokens, gathered, working, reporter)
    parity = check_parity(loaded, readout, tokens, gathered, walked.rows, profile)
    nodes = walked.rows.shape[0]
    reporter.step("lens", 0, 1, (0.75, 0.75))
    lens = read_lens(
        [(readout, walked.rows)],
        [(node, node + 1) for node in range(nodes - 1)] + [(0, nodes - 1)],
        targets=row_targets(tokens, gathered, walked.rows.device),
        cancelled=reporter.cancelled,
    )
    reporter.step("lens", 1, 1, (0.75, 0.92))
    nll = continuation_nll(loaded, readout, prompts, working, reporter.cancelled)
    reporter.step("store", 0, 1, (0.97, 0.97))
    digest = trace_digest(content, prompts.digest, profile.fingerprint, ENGINE_VERSION)
    capture = build_capture(digest, gathered, lens, walked.spectra, nll, len(prompts))
    trace = _document(
        digest, content, loaded, readout, prompts, tokens, profile, parity, lens, walked, gathered, capture,
        nll is not None, working.batch_size, _provenance(loaded, profile, command, started),
    )  # fmt: skip
    _write_capture(capture, walked.rows, capture_path)
    reporter.step("store", 1, 1, (0.97, 1.0))
    return trace


def _layers(checkpoint: Checkpoint) -> int:
    count = (checkpoint.base or checkpoint).n_layers
    if count is None:
        raise AssertionError("inspect() admits only configs that name their layers")
    return count


def walk(
    loaded: LoadedModel,
    anatomy: Anatomy,
    tokens: Tokens,
    gathered: GatheredRows,
    profile: MeasurementProfile,
    reporter: Reporter,
) -> Walked:
    """All prompts through one block at a time, gathering rows and spectra at every node; raises
    NonFiniteActivations, ArchitectureUnsupported, Cancelled."""
    source = loaded.checkpoint.source
    prepared = prepare(anatomy, make_batches(tokens.ids, profile.batch_size, loaded.device), source)
    nodes, prompts = len(anatomy.blocks) + 1, len(tokens.ids)
    kept = RowGatherer(prepared, gathered, nodes)
    split = split_prompts(prompts, profile.jackknife_groups)
    spectra: dict[str, list[NodeSpectrum]] = {policy: [] for policy in POLICIES}
    for node, hidden in enumerate(node_residuals(anatomy, prepared)):
        pooled = kept.add(node, hidden, source)
        last = kept.rows[node, kept.last]
        for policy, rows, prompt in (("last", last, kept.last_prompt), ("all", pooled, kept.all_prompt)):
            spectra[policy].append(node_spectrum(rows, prompt, prompts, split, profile))
        reporter.step("walk", node, nodes - 1, (0.05, 0.75))
    return Walked(kept.rows, spectra)


def _document(
    digest: str,
    content: str,
    loaded: LoadedModel,
    readout: Readout,
    prompts: PromptSet,
    tokens: Tokens,
    profile: MeasurementProfile,
    parity: float,
    lens: LensResult,
    walked: Walked,
    gathered: GatheredRows,
    capture: Capture,
    from_continuations: bool,
    batch_size: int,
    provenance: Provenance,
) -> Trace:
    layers = build_layers(lens, walked.spectra, gathered, capture, profile)
    scored = capture.nll[np.isfinite(capture.nll)]
    return Trace(
        digest=digest,
        model=_identity(loaded, readout, content),
        prompt_set=PromptSetIdentity(
            digest=prompts.digest,
            name=prompts.name,
            count=len(prompts),
            truncated=tokens.truncated,
            tokens=tokens.total,
            token_ids_digest=tokens.digest,
        ),
        profile=stamp_profile(profile),
        engine=EngineIdentity(
            version=ENGINE_VERSION,
            device=provenance.device,
            dtype=provenance.dtype,
            torch=torch.__version__,
            transformers=transformers.__version__,
        ),
        parity_rad=parity,
        nll=float(scored.mean()) if scored.size else None,
        nll_source=("continuations" if from_continuations else "prompts") if scored.size else None,
        non_finite=0,
        layers=layers,
        warnings=(*_of_memory(profile, batch_size), *_warnings(tokens, walked, prompts)),
        provenance=provenance,
    )


def _of_memory(profile: MeasurementProfile, batch_size: int) -> tuple[str, ...]:
    if batch_size == profile.batch_size:
        return ()
    return (
        f"measured {batch_size} prompts at a time instead of {profile.batch_size}, for lack of memory: single "
        "positions differ by rounding (up to 5e-3 in 16 bits), so equal blocks may no longer differ by exactly 0",
    )


def _warnings(tokens: Tokens, walked: Walked, prompts: PromptSet) -> tuple[str, ...]:
    found = []
    if tokens.truncated:
        found.append(f"{tokens.truncated} of {len(prompts)} prompts were cut to their last tokens")
    for policy in POLICIES:
        node = walked.spectra[policy][-1]
        if node.rows < 2 * node.dimensions:
            found.append(
                f"policy {policy}: {node.rows} rows for {node.dimensions} dimensions (n < 2d): alpha is "
                "underdetermined, its differences are attenuated or inflated by x1.03-1.26"
            )
    return tuple(found)


def _identity(loaded: LoadedModel, readout: Readout, content: str) -> ModelIdentity:
    config = loaded.model.config.get_text_config()
    embedding: Tensor = loaded.model.get_input_embeddings().weight  # type: ignore[assignment]  # an nn.Embedding
    return ModelIdentity(
        source=loaded.checkpoint.source,
        revision=loaded.checkpoint.revision,
        weights_digest=content,
        architecture=type(loaded.model).__name__,
        n_layers=len(readout.anatomy.blocks),
        hidden_size=int(config.hidden_size),
        vocab_size=readout.anatomy.vocabulary,
        tied_embeddings=embedding.data_ptr() == readout.anatomy.head_weight.data_ptr(),
        readout_digest=readout_digest(readout),
    )


def readout_digest(readout: Readout) -> str:
    """sha256 over the values of final norm, head and post-processing, as float32."""
    hasher = hashlib.sha256(repr((readout.anatomy.scale, readout.anatomy.softcap, readout.vocabulary)).encode())
    for module in (*readout.anatomy.readout, readout.anatomy.head):
        for name, tensor in sorted(module.state_dict().items()):
            hasher.update(name.encode())
            for part in slices(tensor.detach()):
                hasher.update(part.float().cpu().contiguous().numpy().data)
    return hasher.hexdigest()


def _provenance(
    loaded: LoadedModel, profile: MeasurementProfile, command: Sequence[str] | None, started: float
) -> Provenance:
    device = str(loaded.device)
    return make_provenance(
        device=f"{device} ({torch.cuda.get_device_name()})" if loaded.device.type == "cuda" else device,
        dtype=str(loaded.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        seed=profile.seed,
        command=command,
        started=started,
    )


def _write_capture(capture: Capture, rows: Tensor, path: Path) -> None:
    """Write under a temporary name, flush to disk, rename: a capture is whole or absent."""
    arrays, metadata = capture_tensors(capture)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors[ROWS_KEY] = rows.cpu().contiguous()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with system_errors(partial):
            save_file(tensors, partial, metadata=metadata)
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
