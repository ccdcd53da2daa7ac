"""Large tensors piece by piece, so that work on them needs no second tensor of their size."""

from collections.abc import Iterator

import torch

from spinal.errors import NonFiniteWeights

SLICE_ELEMENTS = 1 << 22


def slices(*tensors: torch.Tensor) -> Iterator[torch.Tensor]:
    """Runs of leading rows of a tensor, about ``SLICE_ELEMENTS`` elements each, in order; a scalar is one run.

    Examples
    --------
    >>> [tuple(part.shape) for part in slices(torch.zeros(3, 3 << 20))]
    [(1, 3145728), (1, 3145728), (1, 3145728)]
    """
    for tensor in tensors:
        if tensor.dim() == 0:
            yield tensor.reshape(1)
            continue
        rows = max(1, SLICE_ELEMENTS // max(1, tensor[:1].numel()))
        for start in range(0, tensor.shape[0], rows):
            yield tensor[start : start + rows]


def require_finite(tensor: torch.Tensor, name: str, source: str) -> None:
    """Raise NonFiniteWeights when the tensor ``name`` of checkpoint ``source`` holds NaN or infinity."""
    if tensor.is_floating_point() and not all(bool(torch.isfinite(part).all()) for part in slices(tensor)):
        raise NonFiniteWeights(
            f"{source}: tensor {name} holds NaN or infinity",
            hint="the training run diverged or the file is damaged; use an earlier checkpoint",
        )
