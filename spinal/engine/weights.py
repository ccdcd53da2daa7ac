"""Relative Frobenius change of parameters, block by block: no forward pass."""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spinal.engine.anatomy import Anatomy
from spinal.engine.load import LoadedModel
from spinal.engine.slices import slices
from spinal.errors import PairMismatch

Array = npt.NDArray[np.float64]


def squared_change(reference: torch.Tensor, candidate: torch.Tensor) -> float:
    """||candidate - reference||_F^2 of two tensors of one shape, float64.

    Examples
    --------
    >>> squared_change(torch.zeros(2, 2), torch.ones(2, 2))
    4.0
    """
    pairs = zip(slices(reference), slices(candidate), strict=True)
    return sum(float((moved.to(base.device).double() - base.double()).square().sum()) for base, moved in pairs)


def relative_change(reference: Iterable[nn.Module], candidate: Iterable[nn.Module]) -> float:
    """||theta_a - theta_b||_F / ||theta_b||_F over all parameters of the modules; 0 when bit-identical, infinity when
    the reference's parameters are all 0 (``docs/method.md`` ("Where the change sits")).

    Raises PairMismatch when the parameters do not pair up by name and shape.
    """
    difference = norm = 0.0
    for ours, theirs in zip(reference, candidate, strict=True):
        mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
        if {name: p.shape for name, p in mine.items()} != {name: p.shape for name, p in other.items()}:
            raise PairMismatch(
                "the parameters of the two checkpoints differ in name or shape",
                hint="compare checkpoints of one ancestor",
            )
        for name, parameter in mine.items():
            norm += sum(float(part.double().square().sum()) for part in slices(parameter))
            difference += squared_change(parameter, other[name])
    if difference == 0.0:
        return 0.0
    return math.sqrt(difference / norm) if norm > 0.0 else math.inf


def identical(reference: nn.Module, candidate: nn.Module) -> bool:
    """Whether two modules hold bit for bit the same parameters and buffers."""
    mine, other = reference.state_dict(), candidate.state_dict()
    return mine.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name].to(tensor.device))
        for name, tensor in mine.items()
    )


def block_changes(reference: Anatomy, candidate: Anatomy) -> Array:
    """(D,) :func:`relative_change` of each block. Raises PairMismatch, and the errors of reading a block from disk."""
    found = []
    for index, (ours, theirs) in enumerate(zip(reference.blocks, candidate.blocks, strict=True)):
        with reference.resident(index), candidate.resident(index):
            found.append(relative_change([ours], [theirs]))
    return np.array(found)


def other_changes(reference: LoadedModel, candidate: LoadedModel, ours: Anatomy, theirs: Anatomy) -> dict[str, float]:
    """:func:`relative_change` of ``embeddings`` (input), ``final_norm`` (and whatever lies between it and the head) and
    ``head``. Raises PairMismatch."""
    return {
        "embeddings": relative_change(
            [reference.model.get_input_embeddings()], [candidate.model.get_input_embeddings()]
        ),
        "final_norm": relative_change(ours.readout, theirs.readout),
        "head": relative_change([ours.head], [theirs.head]),
    }
