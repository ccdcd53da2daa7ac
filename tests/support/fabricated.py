"""Pairs of traces with their captures and evidence, made from arrays chosen by the test."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spinal.analysis.compare import compare
from spinal.documents.base import Provenance
from spinal.documents.capture import Capture, PositionsCapture
from spinal.documents.comparison import Comparison
from spinal.documents.evidence import PairEvidence
from spinal.documents.trace import (
    WINDOWS,
    EngineIdentity,
    LayerTrace,
    ModelIdentity,
    PositionTrace,
    PromptSetIdentity,
    Trace,
    WindowFit,
    stamp_profile,
    trace_digest,
)
from spinal.policy.decide import judged
from spinal.profile import MeasurementProfile

PROFILE = MeasurementProfile(bootstrap_draws=400)
PROVENANCE = Provenance(
    created_at="2026-01-01T00:00:00Z",
    duration_s=1.0,
    platform="test",
    python="3.11",
    versions={},
    device="cpu",
    dtype="float32",
    threads=1,
    seed=0,
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Pair:
    """Everything ``compare`` takes, so that a test can replace one part."""

    reference: Trace
    reference_capture: Capture
    candidate: Trace
    candidate_capture: Capture
    evidence: PairEvidence
    profile: MeasurementProfile = PROFILE

    def compare(self, **options: Any) -> Comparison:
        content = compare(
            self.reference,
            self.reference_capture,
            self.candidate,
            self.candidate_capture,
            self.evidence,
            self.profile,
            PROVENANCE,
            **options,
        )
        return judged(content)


def positions_capture(blocks: int, prompts: int, seed: int, *, kind: str = "influence") -> PositionsCapture:
    """A capture whose alpha grows and whose steps shrink with depth, as any model's may."""
    generator = np.random.default_rng(seed)
    nodes = np.arange(blocks + 1)
    transport = 0.6 - 0.3 * nodes / blocks + 0.05 * generator.standard_normal((prompts, blocks + 1))
    transport = np.clip(transport, 0.01, 3.0)
    transport[:, 0] = np.nan
    width = prompts if kind == "influence" else 16
    replicates = generator.standard_normal((len(WINDOWS), blocks + 1, width))
    replicates -= replicates.mean(axis=-1, keepdims=True)
    alpha = np.tile(0.8 + 0.4 * nodes / blocks, (len(WINDOWS), 1))
    if kind == "groups":
        replicates = alpha[..., None] + 0.01 * replicates
    return PositionsCapture(
        transport=transport,
        entropy=4.0 - nodes / blocks + 0.1 * generator.standard_normal((prompts, blocks + 1)),
        alpha=alpha,
        replicates=replicates,
        replicate_kind=kind,  # type: ignore[arg-type]  # parametrised over the literal's members
        effective_rank=np.full(blocks + 1, 20.0),
    )


def capture(trace: Trace, prompts: int, seed: int, *, kind: str = "influence") -> Capture:
    blocks = trace.model.n_layers
    return Capture(
        trace_digest=trace.digest,
        last=positions_capture(blocks, prompts, seed, kind="groups"),
        all=positions_capture(blocks, prompts, seed + 1, kind=kind),
        nll=np.full(prompts, 3.0),
        nll_prompts=np.arange(prompts),
        directness=np.full(prompts, 0.5),
        row_prompt=np.arange(prompts),
        row_is_last=np.ones(prompts, dtype=bool),
        row_in_all=np.ones(prompts, dtype=bool),
    )


def trace(name: str, blocks: int, prompts: int, *, profile: MeasurementProfile = PROFILE, **changes: Any) -> Trace:
    """A trace document of a checkpoint called ``name``; ``changes`` replace members of the prompt set."""
    weights, digest = sha(name), changes.pop("digest", sha("prompts"))
    position = PositionTrace(
        contraction=1.0,
        contraction_se=0.01,
        contraction_windows={
            window: WindowFit(alpha=1.0, curvature=0.0, k_min=1, k_max=20)
            for window in ("bulk", "body", "wide", "tail")
        },
        contraction_reason=None,
        contraction_half_sample=0.0,
        underdetermined=False,
        rows=1000,
        rank=96,
        transport=0.5,
        transport_se=0.01,
        entropy=4.0,
        max_probability=0.5,
        argmax_agreement=0.5,
        effective_rank=20.0,
        participation_ratio=10.0,
        top_share=0.2,
    )
    first = position.model_copy(update={"transport": None, "transport_se": None})
    return Trace(
        digest=trace_digest(weights, digest, profile.fingerprint, "1"),
        model=ModelIdentity(
            source=f"local:{name}",
            revision=None,
            weights_digest=weights,
            architecture="LlamaForCausalLM",
            n_layers=blocks,
            hidden_size=96,
            vocab_size=2048,
            tied_embeddings=True,
            readout_digest=sha("readout"),
        ),
        prompt_set=PromptSetIdentity(
            **{"digest": digest, "count": prompts, "truncated": 0, "tokens": 10, "token_ids_digest": sha("ids")}
            | changes
        ),
        profile=stamp_profile(profile),
        engine=EngineIdentity(version="1", device="cpu", dtype="float32", torch="2", transformers="5"),
        parity_rad=0.0,
        nll=3.0,
        nll_source="prompts",
        non_finite=0,
        layers=tuple(
            LayerTrace(
                layer=node,
                depth=node / blocks,
                positions={"last": position if node else first, "all": position if node else first},
            )
            for node in range(blocks + 1)
        ),
        warnings=(),
        provenance=PROVENANCE,
    )


def evidence(blocks: int, prompts: int, *, swap: np.ndarray | None = None) -> PairEvidence:
    """Evidence of a change of size ``swap`` (D,) per block; none by default."""
    sizes = np.zeros(blocks) if swap is None else swap
    gap = np.concatenate([[0.0], np.cumsum(sizes)])
    generator = np.random.default_rng(5)
    spread = 1.0 + 0.1 * generator.standard_normal((prompts, 1))
    return PairEvidence(
        block_swap=spread * sizes,
        block_swap_transport=spread * sizes * 0.1,
        weight_change=sizes * 0.5,
        weight_change_other={"embeddings": 0.0, "final_norm": 0.0, "head": 0.0},
        function_gap={"last": spread * gap, "all": spread * gap},
        fixed_lens_transport=None,
        hidden_change={"last": spread * gap, "all": spread * gap},
        readout_moved=False,
        device="cpu",
        dtype="float32",
        duration_s=1.0,
    )


def identical_pair(blocks: int = 10, prompts: int = 32, *, kind: str = "influence") -> Pair:
    """A checkpoint against itself."""
    side = trace("sft", blocks, prompts)
    rows = capture(side, prompts, 0, kind=kind)
    return Pair(side, rows, side, rows, evidence(blocks, prompts))


def changed_pair(
    blocks: int = 10,
    prompts: int = 32,
    *,
    first: int = 8,
    alpha_shift: float = 0.1,
    transport_factor: float = 0.8,
    kind: str = "influence",
    size: float = 0.05,
) -> Pair:
    """A candidate that differs from block ``first`` on: alpha up by ``alpha_shift``, L times the factor."""
    reference, candidate = trace("sft", blocks, prompts), trace("dpo", blocks, prompts)
    mine = capture(reference, prompts, 0, kind=kind)
    changed = np.arange(blocks + 1) >= first
    parts = {
        positions: replace(
            mine.at(positions),
            alpha=mine.at(positions).alpha + alpha_shift * changed,
            transport=np.where(changed, mine.at(positions).transport * transport_factor, mine.at(positions).transport),
            replicates=mine.at(positions).replicates * np.where(changed, 1.01, 1.0)[:, None]
            + (alpha_shift * changed[:, None] if mine.at(positions).replicate_kind == "groups" else 0.0),
        )
        for positions in ("last", "all")
    }
    theirs = replace(mine, trace_digest=candidate.digest, last=parts["last"], all=parts["all"])
    swap = np.where(np.arange(1, blocks + 1) >= first, size, 0.0)
    return Pair(reference, mine, candidate, theirs, evidence(blocks, prompts, swap=swap))
