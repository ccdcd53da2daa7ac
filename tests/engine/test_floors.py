"""What rounding makes of a comparison stays below its bound, and what a short training run makes far above.

The bounds were taken from the permutations of other seeds (``python -m benchmarks.floors``).
"""

from pathlib import Path

import pytest
import torch

from spinal.analysis.floors import ROUNDING, TIMES, floor_of, rounding_of
from tests.engine.architectures import build
from tests.support.equivalents import permuted, untied
from tests.support.places import EXAMPLES
from tests.support.rounding import found_between

SEED = 101
"""No seed of the calibration."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A type of numbers, and a folder with ``sft`` in it; a CPU is slow in float16, which tiny models stand for."""
    folder = tmp_path_factory.mktemp(request.param)
    untied(EXAMPLES / "checkpoints" / "sft", folder / "sft", DTYPES[request.param])
    return request.param, folder


def beyond(found: dict[str, float], dtype: str, *, routed: bool = False) -> dict[str, float]:
    """What of ``found`` is more than rounding may make."""
    return {name: value for name, value in found.items() if value > rounding_of(name, dtype, routed=routed)}


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama", "float32"), ("gemma2", "bfloat16"), ("mixtral", "float32"), ("mixtral", "bfloat16"),
        ("mixtral", "float16"), ("gpt_neox", "float16"), ("gpt2", "float32"), ("gpt2", "float16"), ("gpt2", "bfloat16"),
    ],
)  # fmt: skip
def test_permutations_of_tiny_models_are_rounding(family: str, dtype: str, tmp_path: Path) -> None:
    original = build(family, tmp_path / family, seed=3, dtype=DTYPES[dtype])
    other = permuted(original, tmp_path / "permuted", SEED)
    assert beyond(found_between(original, other), dtype, routed=family == "mixtral") == {}
    # Whether it rounds otherwise is the processor's to say; that it is another order of the same numbers is not.
    weights = [(folder / "model.safetensors").read_bytes() for folder in (original, other)]
    assert weights[0] != weights[1], "a permutation that changes nothing is no permutation"


def test_permutations_of_a_trained_model_are_rounding(trained: tuple[str, Path], tmp_path: Path) -> None:
    dtype, folder = trained
    found = found_between(folder / "sft", permuted(folder / "sft", tmp_path / "permuted", SEED))
    assert beyond(found, dtype) == {}
    assert any(found.values())


def test_a_short_training_run_is_above_every_floor(trained: tuple[str, Path], tmp_path: Path) -> None:
    dtype, folder = trained
    other = untied(EXAMPLES / "checkpoints" / "dpo-short", tmp_path / "dpo-short", DTYPES[dtype])
    found = found_between(folder / "sft", other)
    assert {name for name, value in found.items() if value <= TIMES * ROUNDING[dtype][name]} == set()


def test_floors_grow_with_depth_where_rounding_is_passed_on() -> None:
    for name in ROUNDING["float32"]:
        grown = floor_of(name, "float32", 96) / floor_of(name, "float32", 24)
        of_one_block = name.startswith("block_swap")
        assert grown == pytest.approx(1.0 if of_one_block else 4.0 if name == "kl" else 2.0)
        assert floor_of(name, "float32", 3) == floor_of(name, "float32", 24)
        assert floor_of(name, "bfloat16") < floor_of(name, "bfloat16", routed=True)
        assert floor_of(name, "float32") == floor_of(name, "float32", routed=True)
        assert floor_of(name, "float8_e4m3fn") == floor_of(name, "bfloat16")
