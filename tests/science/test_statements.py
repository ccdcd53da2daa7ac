"""What is said of real candidates that were edited at a known place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from spinal.audit import Ports, TemporaryCaptures, Traced, compare_traces, trace_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.comparison import Comparison
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet
from tests.support.edited import (
    EMBEDDINGS,
    HEAD,
    Edit,
    each,
    exchanged,
    in_blocks,
    noisy,
    permuted,
    read,
    save,
    soup,
)

PROFILE = MeasurementProfile(
    max_tokens=24, lens_positions=2, swap_prompts=8, continuation_prompts=4, bootstrap_draws=200
)
"""Places are those of large edits: they need few prompts."""
ENDS = in_blocks((1, 7), (18, 24))

EDITS: dict[str, tuple[Edit, list[str], list[str]]] = {
    "embeddings": (
        noisy(0.15, lambda name: name == EMBEDDINGS),
        ["outside the blocks, the input embeddings (by 15%)"],
        ["unembedding", "sits in", "spread over", "anything else than in the reference."],
    ),
    "unembedding": (
        noisy(0.15, lambda name: name == HEAD),
        ["outside the blocks, the unembedding (by 15%)"],
        ["input embeddings (", "sits in", "spread over", "anything else than in the reference."],
    ),
    "blocks 1-7": (
        noisy(0.05, in_blocks((1, 7))),
        ["only blocks 1-7 changed; 8-24"],
        ["over the depth", "outside the blocks"],
    ),
    "blocks 1-7 and 18-24": (
        noisy(0.05, ENDS),
        ["only blocks 1-7 and 18-24 changed; 8-17", "two bands, blocks "],
        ["over the depth", "2-22", "blocks 1-24", "outside the blocks"],
    ),
    "everywhere and block 12": (
        each([noisy(0.01, in_blocks((1, 24))), noisy(0.3, in_blocks((12, 12)), seed=1)]),
        ["block 12 stands out"],
        ["identical", "4-20", "7-24", "two bands"],
    ),
    "blocks 12 and 13 exchanged": (
        exchanged(12, 13),
        ["only blocks 12-13 changed; 1-11 and 14-24"],
        ["over the depth", "stands out"],
    ),
    "soup": (
        soup(read("dpo-short")),
        ["a flat profile over the"],
        ["identical", "hold the same tensors"],
    ),
    "permuted": (
        permuted(),
        ["blocks compute the same within rounding"],
        ["sits in", "spread over", "stands out", "identical", "no block"],
    ),
    "permuted and block 12": (
        each([permuted(), noisy(0.1, in_blocks((12, 12)), seed=1)]),
        ["block 12 stands out and holds 100%"],
        ["rest of", "spread", "two bands"],
    ),
}


SETTINGS: dict[str, tuple[dict[str, object], str]] = {
    "rotary base": ({"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}, "rope_theta: 10000.0 -> 500.0"),
    "activation": ({"hidden_act": "relu"}, "hidden_act: silu -> relu"),
}


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Comparison]:
    root: Path = tmp_path_factory.mktemp("edited")
    ports = Ports(captures=TemporaryCaptures(root))
    known = builtin_prompts("hh-harmless-64")
    prompts = PromptSet(known.prompts[:16], known.continuations[:16])
    tensors = read("sft")

    def trace(folder: Path) -> Traced:
        return trace_checkpoint(resolve_reference(str(folder), roots=None), prompts, PROFILE, ports=ports)

    reference = trace(save(root / "reference", tensors))

    def run(edit: Edit, settings: dict[str, object] | None = None) -> Comparison:
        candidate = trace(save(root / f"candidate-{len(list(root.iterdir()))}", edit(tensors), settings))
        return compare_traces(reference, candidate, PROFILE, ports=ports, prompts=prompts)

    return run


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_known_place_is_told_as_it_was_made(name: str, edited: Callable[..., Comparison]) -> None:
    edit, must, never = EDITS[name]
    found = edited(edit).statements
    where = " ".join(
        f"{one.text} {one.null or ''}" for one in found if one.about in ("weights", "settings", "block_swap")
    )
    for expected in must:
        assert expected.lower() in where.lower(), where
    for wrong in never:
        assert wrong.lower() not in where.lower(), where


@pytest.mark.parametrize("name", SETTINGS)
def test_equal_weights_under_other_settings_are_told_so(name: str, edited: Callable[..., Comparison]) -> None:
    settings, key = SETTINGS[name]
    result = edited(dict, settings)
    told = next(one.text for one in result.statements if one.about == "settings")
    assert told.startswith("Both sides hold the same weights; configuration differs in ")
    assert key in told
    assert result.localization["block_swap"].center is not None
    assert not any("No block" in one.text or "no change to place" in one.text for one in result.statements)
    assert [one.kind for one in result.statements if one.about == "block_swap"]
