"""What a comparison finds between two checkpoints that compute the same function."""

from pathlib import Path

import numpy as np
import torch

from spinal.audit import Ports, temporary_captures, trace_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.capture import load_capture
from spinal.engine.reporter import Reporter
from spinal.engine.session import Session, Setup, open_pair
from spinal.profile import MeasurementProfile
from spinal.progress import ignore_progress, never_cancelled
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet

KNOWN = builtin_prompts("hh-harmless-64")
PROMPTS = PromptSet(KNOWN.prompts[:12], KNOWN.continuations[:12])
SMALL = MeasurementProfile(max_tokens=48, lens_positions=6, swap_prompts=12, continuation_prompts=4)


def found_between(reference: Path, candidate: Path, dtype: str = "checkpoint") -> dict[str, float]:
    """By the names of ``spinal.analysis.floors.ROUNDING``: the largest over blocks of what a locator rests on (means
    over 12 prompts), and the totals of whole models."""
    profile = SMALL.model_copy(update={"dtype": dtype})
    sides = [resolve_reference(str(folder), roots=None) for folder in (reference, candidate)]
    with temporary_captures() as captures:
        ports = Ports(captures=captures)
        traced = [trace_checkpoint(side, PROMPTS, profile, ports=ports) for side in sides]
        evidence = ports.engine().gather_evidence(
            *sides,
            reference_capture=traced[0].capture,
            candidate_capture=traced[1].capture,
            prompts=PROMPTS,
            profile=profile,
            device="cpu",
            stream=False,
            progress=ignore_progress,
            cancelled=never_cancelled,
        )
        mine, theirs = (load_capture(each.capture).at("all") for each in traced)
    gap = evidence.function_gap["all"].mean(axis=0)
    window = 1  # ``body``, which profiles of alpha are read in
    found = {
        "block_swap": evidence.block_swap.mean(axis=0).max(),
        "block_swap_transport": np.abs(evidence.block_swap_transport.mean(axis=0)).max(),
        "d_transport": np.abs((theirs.transport - mine.transport)[:, 2:].mean(axis=0)).max(),
        "d_contraction": np.nanmax(np.abs(theirs.alpha[window] - mine.alpha[window])[1:]),
        "function": np.diff(gap).max(),
        "hidden_change": evidence.hidden_change["all"][:, -1].mean(),
    }
    return {name: float(value) for name, value in found.items()} | _of_whole_models(reference, candidate, profile)


def _of_whole_models(reference: Path, candidate: Path, profile: MeasurementProfile) -> dict[str, float]:
    """``kl`` and ``margin`` from the models' own forward passes, in float64 from the logits on."""
    setup = Setup(PROMPTS, profile, 4, "cpu", False, Reporter(ignore_progress, never_cancelled))
    mine, other = (resolve_reference(str(folder), roots=None) for folder in (reference, candidate))
    with torch.inference_mode():
        ours, theirs = open_pair(mine, other, setup)
        kl, margin = [], []
        for tokens in ours.tokens.ids:
            p, q = (_log_probabilities(side, tokens) for side in (ours, theirs))
            kl.append(float((p.exp() * (p - q)).sum(-1).mean()))
            following = torch.tensor(tokens[1:])[:, None]
            margin.append(float((q - p)[:-1].gather(1, following).sum()))
    return {"kl": float(np.mean(kl)), "margin": abs(float(np.mean(margin)))}


def _log_probabilities(side: Session, tokens: tuple[int, ...]) -> torch.Tensor:
    logits = side.loaded.model(torch.tensor([tokens]), use_cache=False).logits[0]
    return torch.log_softmax(logits[:, : side.readout.vocabulary].double(), dim=-1)
