"""The safetensors container, read without trusting it: header, bounds, and a NaN scan. No torch."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from spinal.checkpoints.files import file_error
from spinal.checkpoints.opening import open_regular
from spinal.checkpoints.reading import Unreadable, parse_json
from spinal.errors import NonFiniteWeights, WeightsCorrupt
from spinal.errors.faults import shown

MOST_HEADER = 48 * 1024 * 1024
"""Bytes. The format allows twice that; the widest mixture of experts of today would fill 20 in a single file."""
MOST_TENSORS = 300_000
"""Of one file: 384 experts in 61 blocks, each with scales, are 140,000."""
MOST_DIMENSIONS, MOST_NAME = 16, 1024
VALUES_OF_A_TENSOR = 3 + 2 + 2 * 5
"""Members, offsets and extents, as :mod:`spinal.checkpoints.reading` counts them, with room to spare."""
COPY = "the file is truncated or damaged; copy it again"
CHUNK = 16 * 1024 * 1024
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
EXPONENTS = {"BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00), "F32": (np.uint32, 0x7F800000)}
"""Word type and exponent mask: all exponent bits set means infinity or NaN."""


def open_weights(path: Path, source: str, roots: Sequence[Path] | None = None) -> BinaryIO:
    """A safetensors file, open for reading. Raises WeightsCorrupt for what is no regular file, ModelPathRefused."""
    try:
        return os.fdopen(open_regular(path, source, file_error(path.name), roots), "rb")
    except FileNotFoundError as error:
        raise file_error(path.name)(f"{source}: {path.name} is not there any more") from error


def read_header(path: Path, source: str, roots: Sequence[Path] | None = None) -> dict[str, Any]:
    """Tensor name -> {dtype, shape, data_offsets}; raises WeightsCorrupt naming what does not fit or what the header
    has too much of, ModelPathRefused."""
    with open_weights(path, source, roots) as stream:
        try:
            size = os.fstat(stream.fileno()).st_size
            raw = _raw_header(stream, size)
            header = parse_json(raw, "it", most_values=VALUES_OF_A_TENSOR * MOST_TENSORS)
            spans = sorted(_checked_spans(header))
        except (Unreadable, _Damaged) as error:
            raise WeightsCorrupt(f"{source}: header of {shown(path.name)} is damaged ({error})", hint=COPY) from error
    end = 0
    for start, stop, name in spans:
        if start != end or stop < start:
            raise WeightsCorrupt(
                f"{source}: {shown(path.name)}: tensor {shown(name)} overlaps or leaves a gap", hint=COPY
            )
        end = stop
    if 8 + len(raw) + end != size:
        raise WeightsCorrupt(
            f"{source}: {shown(path.name)} has {size} bytes, its header promises {8 + len(raw) + end}", hint=COPY
        )
    return dict(header)


class _Damaged(ValueError):
    """One line about what does not fit."""


def _raw_header(stream: BinaryIO, size: int) -> bytes:
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > size - 8:
        raise _Damaged(f"the file ends inside its header ({size} bytes)")
    if length > MOST_HEADER:
        raise _Damaged(f"it is larger than {MOST_HEADER:,} bytes")
    raw = stream.read(length)
    if len(raw) < length:
        raise _Damaged(f"the file ends inside its header ({8 + len(raw)} bytes)")
    return raw


def _checked_spans(header: Any) -> list[tuple[int, int, str]]:
    """Where each tensor begins and ends, once its entry is found to be one. Takes the metadata out."""
    if not isinstance(header, dict):
        raise _Damaged("it is not a JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _Damaged("its __metadata__ is not text by name")
    if len(header) > MOST_TENSORS:
        raise _Damaged(f"it names more than {MOST_TENSORS:,} tensors")
    return [_checked_span(name, tensor) for name, tensor in header.items()]


def _checked_span(name: str, tensor: Any) -> tuple[int, int, str]:
    if len(name) > MOST_NAME:
        raise _Damaged(f"a name of {len(name):,} characters, {shown(name[:40])} ...")
    if not isinstance(tensor, dict):
        raise _Damaged(f"{shown(name)} is not described")
    for member, kind in (("dtype", str), ("shape", list), ("data_offsets", list)):
        if not isinstance(tensor.get(member), kind):
            raise _Damaged(f"{shown(name)} has no {member!r} that can be used")
    shape, offsets = tensor["shape"], tensor["data_offsets"]
    if len(shape) > MOST_DIMENSIONS or not all(_is_size(extent) for extent in shape):
        raise _Damaged(f"shape of {shown(name)}")
    if len(offsets) != 2 or not all(_is_size(offset) for offset in offsets):
        raise _Damaged(f"offsets of {shown(name)}")
    item = ITEM_BYTES.get(tensor["dtype"])
    start, stop = offsets
    if item is not None and stop - start != math.prod(shape) * item:
        raise _Damaged(f"size of {shown(name)}")
    return start, stop, name


def _is_size(number: Any) -> bool:
    # True and False are integers to isinstance.
    return type(number) is int and 0 <= number < 1 << 63


def scan_non_finite(path: Path, header: dict[str, Any], source: str, roots: Sequence[Path] | None = None) -> None:
    """Raise NonFiniteWeights naming the first tensor that holds NaN or infinity; WeightsCorrupt where the file ends
    before its header says."""
    with open_weights(path, source, roots) as stream:
        _scan(stream, header, lambda name: f"{source}: tensor {shown(name)} in {shown(path.name)}")


def _scan(stream: BinaryIO, header: dict[str, Any], named: Callable[[str], str]) -> None:
    data_start = 8 + int.from_bytes(stream.read(8), "little")
    for name, tensor in header.items():
        if tensor["dtype"] not in EXPONENTS:
            continue
        word, mask = EXPONENTS[tensor["dtype"]]
        start, stop = tensor["data_offsets"]
        stream.seek(data_start + start)
        for offset in range(start, stop, CHUNK):
            piece = stream.read(min(CHUNK, stop - offset))
            if len(piece) < min(CHUNK, stop - offset):
                raise WeightsCorrupt(f"{named(name)} ends early", hint=COPY)
            words = np.frombuffer(piece, dtype=word)
            if ((words & mask) == mask).any():
                raise NonFiniteWeights(
                    f"{named(name)} holds NaN or infinity",
                    hint="the training run diverged or the file is damaged; use an earlier checkpoint",
                )
