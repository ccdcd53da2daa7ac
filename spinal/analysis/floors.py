"""What rounding alone makes of a pair that computes the same function, and where a change begins to have a place.

A permutation of neurons, heads or experts changes the order of sums and nothing else; what a comparison then finds is
rounding. ``ROUNDING`` bounds it by type of numbers (``python -m benchmarks.floors`` prints what it was taken from,
tests hold it against permutations of other seeds). A profile or an account is placed only above ``TIMES`` as much.
"""

import math

from spinal.analysis.layers import Pair

TIMES = 10.0
DEPTH = 24
"""Blocks up to which the bounds hold as they are. Rounding is passed on from block to block, and its parts add up like
noise: beyond, what rests on whole models grows with the root of the depth."""
OF_ONE_BLOCK = frozenset({"block_swap", "block_swap_transport"})
"""Measured inside one block."""
SQUARED = frozenset({"kl"})
"""Quadratic in the noise of logits."""
ROUNDING: dict[str, dict[str, float]] = {
    "float32": {
        "block_swap": 1e-6, "block_swap_transport": 2e-7, "d_transport": 3e-7, "d_contraction": 1e-7, "function": 2e-6,
        "hidden_change": 2e-6, "kl": 1e-10, "margin": 5e-5, "refusal": 5e-5,
    },
    "float16": {
        "block_swap": 1e-4, "block_swap_transport": 2e-6, "d_transport": 3e-5, "d_contraction": 3e-5, "function": 3e-4,
        "hidden_change": 6e-4, "kl": 2e-6, "margin": 1e-2, "refusal": 1e-2,
    },
    "bfloat16": {
        "block_swap": 1e-3, "block_swap_transport": 2e-5, "d_transport": 2e-4, "d_contraction": 3e-4, "function": 5e-4,
        "hidden_change": 3e-3, "kl": 5e-5, "margin": 5e-2, "refusal": 5e-2,
    },
}  # fmt: skip
"""By type of numbers: the largest weight of the locator of that name over the blocks (rho, a ratio; changes of L and
rises of the gap, radians; d alpha), the hidden change at node D (a ratio), the mean of KL and the mean change of a
margin over prompts (nats). A margin is a sum over some fifty tokens."""
ROUTED: dict[str, float] = {
    "block_swap": 3e-3, "block_swap_transport": 1.5e-3, "d_transport": 1.5e-3, "d_contraction": 2e-3, "function": 6e-3,
    "hidden_change": 6e-3, "kl": 2e-4, "margin": 0.15, "refusal": 0.15,
}  # fmt: skip
"""The same in 16 bits where blocks choose among experts: a position at which two are nearly tied takes another one."""
COARSEST = "bfloat16"
FLOORED = frozenset(ROUNDING[COARSEST])
"""What has a floor."""


def rounding_of(quantity: str, dtype: str, *, routed: bool = False) -> float:
    """The bound of ``quantity``, a name in :data:`ROUNDING`, for models that run in ``dtype``, as documents name it; of
    a type that is not known, that of the coarsest. ``routed`` says that blocks choose among experts."""
    dense = ROUNDING.get(dtype, ROUNDING[COARSEST])[quantity]
    return max(dense, ROUTED[quantity]) if routed and dtype != "float32" else dense


def floor_of(quantity: str, dtype: str, blocks: int = DEPTH, *, routed: bool = False) -> float:
    """``TIMES`` :func:`rounding_of`, in a model of ``blocks`` blocks: above it there is something to place.

    Examples
    --------
    >>> floor_of("block_swap", "float32"), floor_of("kl", "float32", blocks=96) / floor_of("kl", "float32")
    (1e-05, 4.0)
    """
    deeper = max(1.0, blocks / DEPTH)
    grown = 1.0 if quantity in OF_ONE_BLOCK else deeper if quantity in SQUARED else math.sqrt(deeper)
    return TIMES * rounding_of(quantity, dtype, routed=routed) * grown


def pair_floor(pair: Pair, quantity: str) -> float:
    """:func:`floor_of` for two models that may run in two types: the larger one."""
    return max(
        floor_of(quantity, trace.engine.dtype, trace.model.n_layers, routed=pair.evidence.routed)
        for trace in (pair.reference, pair.candidate)
    )
