"""Real audits of the checkpoints with a known history, measured once per session."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet

PROFILE = MeasurementProfile(max_tokens=96, swap_prompts=48, continuation_prompts=32, lens_positions=8)
"""Short prompts keep the session under a minute; what is asserted does not depend on their length."""


@pytest.fixture(scope="session")
def prompts() -> PromptSet:
    return builtin_prompts("hh-harmless-128")


@pytest.fixture(scope="session")
def traced(
    history_checkpoint: Callable[[str], Path], prompts: PromptSet, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Trace, Path]]:
    """``traced(name)`` -> (trace, capture file) of a history checkpoint."""
    from spinal.checkpoints.resolve import resolve_reference
    from spinal.engine.api import measure

    folder = tmp_path_factory.mktemp("captures")

    @cache
    def run(name: str) -> tuple[Trace, Path]:
        path = folder / f"{name}.safetensors"
        checkpoint = resolve_reference(os.fspath(history_checkpoint(name)), roots=None)
        return measure(checkpoint, prompts, PROFILE, capture_path=path), path

    return run


@pytest.fixture(scope="session")
def compared(
    history_checkpoint: Callable[[str], Path],
    prompts: PromptSet,
    traced: Callable[[str], tuple[Trace, Path]],
) -> Callable[..., Comparison]:
    """``compared(name)`` -> the comparison of ``sft`` (reference) with that checkpoint; ``compared(name, control,
    draws)`` with a named control and draws of matched noise."""
    from spinal.analysis.compare import compare
    from spinal.checkpoints.resolve import resolve_reference
    from spinal.documents.capture import load_capture
    from spinal.engine.api import gather_evidence

    @cache
    def run(name: str, control: str | None = None, draws: int = 0) -> Comparison:
        profile = PROFILE.model_copy(update={"noise_draws": draws})
        reference, reference_path = traced("sft")
        candidate, candidate_path = traced(name)
        evidence = gather_evidence(
            resolve_reference(os.fspath(history_checkpoint("sft")), roots=None),
            resolve_reference(os.fspath(history_checkpoint(name)), roots=None),
            reference_capture=reference_path,
            candidate_capture=candidate_path,
            prompts=prompts,
            profile=profile,
            device="cpu",
        )
        return compare(
            reference,
            load_capture(reference_path),
            candidate,
            load_capture(candidate_path),
            evidence,
            profile,
            candidate.provenance,
            control=None if control is None else (traced(control)[0], load_capture(traced(control)[1])),
        )

    return run
