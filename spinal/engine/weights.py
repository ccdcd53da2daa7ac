"""Relative Frobenius change of parameters, block by block: no forward pass."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spinal.engine.anatomy import Anatomy
from spinal.engine.session import Session
from spinal.engine.slices import slices
from spinal.errors import PairMismatch

Array = npt.NDArray[np.float64]
Parameters = Mapping[str, torch.Tensor]
"""Parameters of a module by name."""


def squared_change(reference: torch.Tensor, candidate: torch.Tensor) -> float:
    """||candidate - reference||_F^2 of two tensors of one shape, float64.

    Examples
    --------
    >>> squared_change(torch.zeros(2, 2), torch.ones(2, 2))
    4.0
    """
    pairs = zip(slices(reference), slices(candidate), strict=True)
    return sum(float((moved.to(base.device).double() - base.double()).square().sum()) for base, moved in pairs)


def relative_change(
    reference: Iterable[nn.Module], candidate: Iterable[nn.Module], *, shared: int | None = None
) -> float:
    """||theta_a - theta_b||_F / ||theta_b||_F over all parameters of the modules; 0 when bit-identical, infinity when
    the reference's parameters are all 0 (``docs/method.md`` ("Where the change sits")). Of parameters with a row for
    each id only the first ``shared`` rows are compared, where the two sides have not equally many.

    Raises PairMismatch when the parameters do not pair up by name and shape.
    """
    difference = norm = 0.0
    for ours, theirs in zip(reference, candidate, strict=True):
        mine, other = shared_rows(dict(ours.named_parameters()), dict(theirs.named_parameters()), shared)
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


def unlike_rows(mine: Parameters, other: Parameters) -> frozenset[str]:
    """Names of the parameters of which two sides have not equally many rows."""
    return frozenset(name for name in mine.keys() & other.keys() if mine[name].shape[:1] != other[name].shape[:1])


def shared_rows(mine: Parameters, other: Parameters, shared: int | None) -> tuple[Parameters, Parameters]:
    """Parameters of two sides by name; the first ``shared`` rows of those of which they have not equally many."""
    if shared is None:
        return mine, other
    unlike = unlike_rows(mine, other)

    def cut(side: Parameters) -> Parameters:
        return {name: parameter[:shared] if name in unlike else parameter for name, parameter in side.items()}

    return cut(mine), cut(other)


def block_changes(reference: Anatomy, candidate: Anatomy) -> Array:
    """(D,) :func:`relative_change` of each block. Raises PairMismatch, and the errors of reading a block from disk."""
    found = []
    for index, (ours, theirs) in enumerate(zip(reference.blocks, candidate.blocks, strict=True)):
        with reference.resident(index), candidate.resident(index):
            found.append(relative_change([ours], [theirs]))
    return np.array(found)


def other_changes(ours: Session, theirs: Session) -> dict[str, float]:
    """:func:`relative_change` of ``embeddings`` (input), ``final_norm`` (and whatever lies between it and the head) and
    ``head``; of vocabularies of two sizes over the ids that are read. Raises PairMismatch."""
    tables = [side.loaded.model.get_input_embeddings() for side in (ours, theirs)]
    shared = ours.readout.vocabulary
    return {
        "embeddings": relative_change(tables[:1], tables[1:], shared=shared),
        "final_norm": relative_change(ours.anatomy.readout, theirs.anatomy.readout),
        "head": relative_change([ours.anatomy.head], [theirs.anatomy.head], shared=shared),
    }
