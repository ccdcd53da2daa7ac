"""Whether an adapter's tensors fit a base, from the headers of both. What is loaded is checked again by the engine."""

import re
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.tensors import read_header
from spinal.errors import AdapterInvalid

LOW_RANK = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>[AB])(?:\.[^.]+)?\.weight$")
Shape = tuple[int, ...]


def require_fit(adapter: Checkpoint, base: Checkpoint) -> None:
    """Raises AdapterInvalid where no low-rank pair of ``adapter`` belongs to a matrix of ``base``, or one belongs to a
    matrix of another shape. Says nothing about an adapter without such pairs."""
    pairs = _low_rank_pairs(_headers(adapter))
    matrices = _matrices(base)
    met = {module: matrices[_tail(module)] for module in pairs if _tail(module) in matrices}
    about = f"{adapter.source}: its base {adapter.base_named!r} is not at hand, and {base.source}"
    hint = "compare with the base that it was trained on, or, on the command line, say where it lies: --base DIR"
    if pairs and not met:
        raise AdapterInvalid(f"{about} has no {next(iter(pairs))}", hint=hint)
    for module, shapes in met.items():
        if not any(pairs[module] in (shape, shape[::-1]) for shape in shapes):
            raise AdapterInvalid(
                f"{about} does not fit: its {module} is {_times(next(iter(shapes)))}, that of the adapter "
                f"{_times(pairs[module])}",
                hint=hint,
            )


def _headers(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for file in checkpoint.weight_files():
        found |= read_header(file, checkpoint.source, checkpoint.roots)
    return found


def _low_rank_pairs(header: dict[str, dict[str, Any]]) -> dict[str, Shape]:
    """Module -> (rows, columns) of the product B A, for every pair that is whole."""
    halves: dict[str, dict[str, list[int]]] = {}
    for name, tensor in header.items():
        found = LOW_RANK.match(name)
        if found and len(tensor["shape"]) == 2:
            halves.setdefault(found["module"], {})[found["part"]] = tensor["shape"]
    return {module: (both["B"][0], both["A"][1]) for module, both in halves.items() if len(both) == 2}


def _matrices(base: Checkpoint) -> dict[str, set[Shape]]:
    """Shapes of the matrices of a checkpoint by the tail of their module's name."""
    found: dict[str, set[Shape]] = {}
    for name, tensor in _headers(base).items():
        if name.endswith(".weight") and len(tensor["shape"]) == 2:
            found.setdefault(_tail(name.removesuffix(".weight")), set()).add(tuple(tensor["shape"]))
    return found


def _tail(module: str) -> str:
    """From the number of the block on: what comes before it differs between a model and the same one saved bare.

    Examples
    --------
    >>> _tail("model.layers.3.self_attn.q_proj"), _tail("lm_head")
    ('3.self_attn.q_proj', 'lm_head')
    """
    parts = module.split(".")
    first = next((index for index, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[first:])


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape))
