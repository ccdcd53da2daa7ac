"""Weights that are stored as codes and scales, back to floats: value = (code - zero point) * scale, in float32.

Exact: codes of at most 8 bits and their zero points are whole in float32, so each value is rounded once. No package of
the format is needed, and what comes out is what a 32-bit copy of the dequantised checkpoint holds.
"""

from collections.abc import Callable

import torch

from spinal.checkpoints.stored import Coded
from spinal.engine.slices import SLICE_ELEMENTS

Tensor = torch.Tensor
FOUR_BITS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""Values of the sixteen codes of a 4-bit float (E2M1), which MXFP4 scales by powers of two."""


def dequantise(weight: Coded, part: Callable[[str], Tensor]) -> Tensor:
    """The weight in float32 on the CPU; ``part`` reads a tensor of the files by its name."""
    if weight.layout == "mxfp4":
        return from_mxfp4(part(weight.codes), part(weight.scale))
    codes, zero = part(weight.codes), None if weight.zero is None else part(weight.zero)
    scale = part(weight.scale).float()
    if weight.extent is not None:
        rows, columns = (int(extent) for extent in part(weight.extent))
        codes = unpack(codes, weight.bits, columns)
        if zero is not None and zero.dtype == torch.int32:
            zero = unpack(zero.T, weight.bits, rows).T
    return from_grid(codes, scale, weight.block, zero)


def from_grid(codes: Tensor, scale: Tensor, block: tuple[int, int] | None, zero: Tensor | None = None) -> Tensor:
    """(..., rows, columns) codes, each block of ``block`` rows and columns times its own scale.

    ``scale`` and ``zero`` are (..., rows / height, columns / width), rounded up, or hold one value for all.

    Examples
    --------
    >>> codes = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int8)
    >>> from_grid(codes, torch.tensor([[0.5, 2.0]]), (2, 2), torch.tensor([[1, 0]], dtype=torch.int8))
    tensor([[ 0.0000,  0.5000,  6.0000],
            [ 1.5000,  2.0000, 12.0000]])
    """
    values = codes.to(torch.float32, copy=True)
    height, width = block or values.shape[-2:]
    if scale.dim() < 2:
        scale, zero = scale.reshape(1, 1), None if zero is None else zero.reshape(1, 1)
    across = torch.arange(values.shape[-1]) // width
    step = max(1, SLICE_ELEMENTS // max(1, values[..., :1, :].numel()))
    for start in range(0, values.shape[-2], step):
        rows = values[..., start : start + step, :]
        down = torch.arange(start, start + rows.shape[-2]) // height
        if zero is not None:
            rows.sub_(zero[..., down, :].float()[..., across])
        rows.mul_(scale[..., down, :][..., across])
    return values


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """(rows, words) of 32 bits -> (rows, ``count``) signed codes of ``bits`` bits, which divide 32: lowest bits first,
    each code stored plus half its range.

    Examples
    --------
    >>> unpack(torch.tensor([[0x7A]], dtype=torch.int32), 4, 2)
    tensor([[ 2, -1]], dtype=torch.int8)
    """
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    codes = (words.contiguous().unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
    return (codes.flatten(1)[:, :count] - (1 << (bits - 1))).to(torch.int8)


def from_mxfp4(blocks: Tensor, exponents: Tensor) -> Tensor:
    """(experts, outputs, groups, 16) bytes and (experts, outputs, groups) exponents -> (experts, inputs, outputs).

    A byte holds two codes, the low half first; 32 of them share 2 ** (exponent - 127). gpt-oss keeps the experts'
    weights transposed.
    """
    experts, outputs = blocks.shape[:2]
    table = torch.tensor(FOUR_BITS)
    made = torch.empty(experts, blocks.shape[2] * 32, outputs)
    for expert in range(experts):
        codes = torch.stack((blocks[expert] & 15, blocks[expert] >> 4), dim=-1).flatten(-2)
        scale = (exponents[expert].to(torch.int32) - 127).unsqueeze(-1)
        made[expert] = torch.ldexp(table[codes.int()], scale).flatten(1).T
    return made
