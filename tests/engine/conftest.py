"""Tiny checkpoints, made once per session, and short ways to measure them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from spinal.documents.trace import Trace
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet

KNOBS: dict[str, Any] = {"max_tokens": 40, "lens_positions": 6, "batch_size": 8, "swap_prompts": 16,
                         "continuation_prompts": 8, "greedy_prompts": 4, "greedy_tokens": 8}  # fmt: skip
"""Small enough for a hundred checkpoints. Greedy continuations most of all: with the default of 64 tokens they take
nine tenths of the time of a tiny model."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny("qwen2", seed=0)`` -> folder of that checkpoint."""
    from tests.engine.architectures import build

    root = tmp_path_factory.mktemp("tiny")

    @cache
    def made(family: str, seed: int = 0) -> Path:
        return build(family, root / f"{family.replace(':', '-')}-{seed}", seed=seed)

    return made


@pytest.fixture(scope="session")
def few() -> PromptSet:
    known = builtin_prompts("hh-harmless-64")
    return PromptSet(known.prompts[:24], known.continuations[:24])


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Trace, Path]]:
    """``traced(folder, prompts, **knobs)`` -> (trace, capture file)."""
    from spinal.audit import Ports, measure_checkpoint
    from spinal.checkpoints.resolve import resolve_reference
    from spinal.profile import MeasurementProfile

    root = tmp_path_factory.mktemp("traces")
    count = iter(range(10_000))

    def run(folder: Path, prompts: PromptSet, **knobs: Any) -> tuple[Trace, Path]:
        path = root / f"{next(count)}.safetensors"
        profile = MeasurementProfile(**(KNOBS | knobs))
        checkpoint = resolve_reference(str(folder), roots=None)
        return measure_checkpoint(checkpoint, prompts, profile, ports=Ports(), capture_path=path), path

    return run
