"""The safetensors container, read without trusting it: header, bounds, and a NaN scan. No torch."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from spinal.checkpoints.files import file_error
from spinal.checkpoints.opening import open_regular
from spinal.errors import NonFiniteWeights, WeightsCorrupt

MAX_HEADER = 100 * 1024 * 1024
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
    """Tensor name -> {dtype, shape, data_offsets}; raises WeightsCorrupt naming what does not fit."""
    with open_weights(path, source, roots) as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise WeightsCorrupt(f"{source}: {path.name} ends inside its header ({size} bytes)", hint="copy it again")
        raw = stream.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        spans = sorted((int(t["data_offsets"][0]), int(t["data_offsets"][1]), name) for name, t in header.items())
        for name, tensor in header.items():
            _check_tensor(name, tensor)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise WeightsCorrupt(f"{source}: header of {path.name} is damaged ({error})", hint="copy it again") from error
    end = 0
    for start, stop, name in spans:
        if start != end or stop < start:
            raise WeightsCorrupt(f"{source}: {path.name}: tensor {name} overlaps or leaves a gap", hint="copy it again")
        end = stop
    if 8 + length + end != size:
        raise WeightsCorrupt(
            f"{source}: {path.name} has {size} bytes, its header promises {8 + length + end}",
            hint="the file is truncated or damaged; copy it again",
        )
    return dict(header)


def _check_tensor(name: str, tensor: dict[str, Any]) -> None:
    count = 1
    for extent in tensor["shape"]:
        if not isinstance(extent, int) or extent < 0:
            raise ValueError(f"shape of {name}")
        count *= extent
    item = ITEM_BYTES.get(tensor["dtype"])
    start, stop = tensor["data_offsets"]
    if item is not None and stop - start != count * item:
        raise ValueError(f"size of {name}")


def scan_non_finite(path: Path, header: dict[str, Any], source: str, roots: Sequence[Path] | None = None) -> None:
    """Raise NonFiniteWeights naming the first tensor that holds NaN or infinity."""
    with open_weights(path, source, roots) as stream:
        data_start = 8 + int.from_bytes(stream.read(8), "little")
        for name, tensor in header.items():
            if tensor["dtype"] not in EXPONENTS:
                continue
            word, mask = EXPONENTS[tensor["dtype"]]
            start, stop = tensor["data_offsets"]
            stream.seek(data_start + start)
            for offset in range(start, stop, CHUNK):
                words = np.frombuffer(stream.read(min(CHUNK, stop - offset)), dtype=word)
                if ((words & mask) == mask).any():
                    raise NonFiniteWeights(
                        f"{source}: tensor {name} in {path.name} holds NaN or infinity",
                        hint="the training run diverged or the file is damaged; use an earlier checkpoint",
                    )
