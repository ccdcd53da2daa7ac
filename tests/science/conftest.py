"""Real audits of the checkpoints with a known history, measured once per session."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from spinal.audit import Ports, TemporaryCaptures, Traced, compare_traces, trace_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.comparison import Comparison
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet

PROFILE = MeasurementProfile(
    max_tokens=96, swap_prompts=48, continuation_prompts=32, lens_positions=8, greedy_tokens=16
)
"""Short prompts keep the session under a minute; what is asserted does not depend on their length."""


@pytest.fixture(scope="session")
def prompts() -> PromptSet:
    return builtin_prompts("hh-harmless-128")


@pytest.fixture(scope="session")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Ports:
    return Ports(captures=TemporaryCaptures(tmp_path_factory.mktemp("captures")))


@pytest.fixture(scope="session")
def traced(history_checkpoint: Callable[[str], Path], prompts: PromptSet, ports: Ports) -> Callable[[str], Traced]:
    """``traced(name)`` -> trace, capture and files of a history checkpoint."""

    @cache
    def run(name: str) -> Traced:
        checkpoint = resolve_reference(os.fspath(history_checkpoint(name)), roots=None)
        return trace_checkpoint(checkpoint, prompts, PROFILE, ports=ports)

    return run


@pytest.fixture(scope="session")
def compared(prompts: PromptSet, traced: Callable[[str], Traced], ports: Ports) -> Callable[..., Comparison]:
    """``compared(name)`` -> the comparison of ``sft`` (reference) with that checkpoint; ``compared(name, control,
    draws)`` with a named control and draws of matched noise."""

    @cache
    def run(name: str, control: str | None = None, draws: int = 0) -> Comparison:
        return compare_traces(
            traced("sft"),
            traced(name),
            PROFILE.model_copy(update={"noise_draws": draws}),
            ports=ports,
            prompts=prompts,
            control=None if control is None else traced(control),
        )

    return run
