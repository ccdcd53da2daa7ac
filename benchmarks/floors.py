"""What does rounding make of a comparison? ``python -m benchmarks.floors [--seeds N]``.

Permutes neurons, heads and experts of tiny models of several families and of ``sft``, stored in three types, compares
each with what it was made from, and prints the largest of every quantity by type beside the bound that
``spinal.analysis.floors`` holds and beside what a short DPO run gives.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from spinal.analysis.floors import floor_of, rounding_of
from tests.engine.architectures import build
from tests.support.equivalents import permuted, untied
from tests.support.places import EXAMPLES
from tests.support.rounding import found_between

FAMILIES = ("llama", "gemma2", "mixtral", "gpt_neox", "gpt2")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    for name, dtype in DTYPES.items():
        with tempfile.TemporaryDirectory() as folder:
            _print(name, *_measured(Path(folder), dtype, seeds))


def _measured(folder: Path, dtype: torch.dtype, seeds: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """The largest over ``seeds`` by model, and what ``dpo-short`` gives."""
    sides = [EXAMPLES / "checkpoints" / name for name in ("sft", "dpo-short")]
    sft, dpo = (untied(side, folder / side.name, dtype) for side in sides)
    made = {family: build(family, folder / family, dtype=dtype) for family in FAMILIES} | {"sft": sft}
    largest: dict[str, dict[str, float]] = {}
    for name, original in made.items():
        tried = [found_between(original, permuted(original, folder / f"{name}-{seed}", seed)) for seed in range(seeds)]
        largest[name] = {quantity: max(each[quantity] for each in tried) for quantity in tried[0]}
    return largest, found_between(sft, dpo)


def _print(dtype: str, largest: dict[str, dict[str, float]], real: dict[str, float]) -> None:
    names = list(largest)
    print(f"\n{dtype:22}" + "".join(f"{name:>10}" for name in [*names, "bound", "routed", "floor", "dpo-short"]))
    for quantity, change in real.items():
        bound, routed = (rounding_of(quantity, dtype, routed=routed) for routed in (False, True))
        row = [*(largest[name][quantity] for name in names), bound, routed, floor_of(quantity, dtype), change]
        print(f"{quantity:22}" + "".join(f"{value:10.1e}" for value in row))


if __name__ == "__main__":
    main()
