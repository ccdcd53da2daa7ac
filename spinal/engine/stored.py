"""The tensors of a checkpoint's files under the names of the weights that they make, read when they are asked for.

The one way in which weights are read, whether a model is loaded whole or block by block. Plain reads into the tensor's
own memory: pages of a mapped file would count as this process's until unmapped.
"""

import math
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.stored import stored_tensors
from spinal.checkpoints.tensors import open_weights, read_header
from spinal.engine.quantised import dequantise
from spinal.engine.slices import SLICE_ELEMENTS
from spinal.errors import WeightsCorrupt

Tensor = torch.Tensor
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES = FLOATS | {
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool, "I8": torch.int8,
    "U8": torch.uint8, "I16": torch.int16, "U16": torch.uint16, "I32": torch.int32, "U32": torch.uint32,
    "I64": torch.int64, "U64": torch.uint64,
}  # fmt: skip
if hasattr(torch, "float8_e8m0fnu"):  # since torch 2.7
    DTYPES["F8_E8M0"] = torch.float8_e8m0fnu


class StoredTensors:
    """What the files of a checkpoint hold. Raises QuantizationUnsupported and WeightsCorrupt as
    :func:`spinal.checkpoints.stored.stored_tensors` does, and WeightsCorrupt for a name that two files hold."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.source = checkpoint.source
        self._roots = checkpoint.roots
        self._places: dict[str, tuple[Path, str, tuple[int, ...], int]] = {}
        headers = {}
        for file in checkpoint.weight_files():
            with open_weights(file, self.source, self._roots) as stream:
                data = 8 + int.from_bytes(stream.read(8), "little")
            for name, entry in read_header(file, self.source, self._roots).items():
                if name in headers:
                    raise WeightsCorrupt(
                        f"{self.source}: two weight files hold tensor {name}", hint="remove the files of another save"
                    )
                headers[name] = entry
                place = (file, entry["dtype"], tuple(entry["shape"]), data + entry["data_offsets"][0])
                self._places[name] = place
        self._stored = stored_tensors(checkpoint.config, headers, checkpoint.source)
        self.remarks = self._stored.remarks
        parts = {part for weight in self._stored.coded.values() for part in weight.parts}
        self.names: Set[str] = (self._places.keys() - parts - self._stored.idle) | self._stored.coded.keys()
        """Names of weights, and of whatever else is stored."""

    def is_float(self, name: str) -> bool:
        """Whether what :meth:`value` gives for ``name`` are floats."""
        return name in self._stored.coded or self._places[name][1] in FLOATS

    def dtype(self) -> torch.dtype:
        """The dtype of the first floats of at least 16 bits, in order of names; bfloat16 where there are none."""
        kinds = (self._places[name][1] for name in sorted(self.names) if name not in self._stored.coded)
        return next((FLOATS[kind] for kind in kinds if kind in FLOATS), torch.bfloat16)

    def stored_shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor as the file has it, codes included; None for codes that are packed."""
        weight = self._stored.coded.get(name)
        if weight is None or weight.layout == "grid":
            return self._places[name][2]
        return None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a weight; None where there is none of that name, or none of floats."""
        if name not in self.names or not self.is_float(name):
            return None
        weight = self._stored.coded.get(name)
        if weight is not None and weight.layout == "mxfp4":
            experts, outputs, groups, _ = self._places[weight.codes][2]
            return experts, 32 * groups, outputs
        if weight is not None and weight.extent is not None:
            return tuple(int(extent) for extent in self._raw(weight.extent))
        return self._places[name][2]

    def value(self, name: str) -> Tensor:
        """The tensor on the CPU, in the dtype that it is stored in; float32 where codes and scales make it.

        Raises WeightsCorrupt when the file ends before the tensor does, or when it cannot be dequantised.
        """
        weight = self._stored.coded.get(name)
        if weight is None:
            return self._raw(name)
        if weight.extent is not None:
            self._check_extent(name, weight.codes, weight.extent, weight.bits)
        return dequantise(weight, self._raw)

    def read_into(self, name: str, made: Tensor) -> None:
        """The weight, cast into ``made``, which has its shape. Raises WeightsCorrupt as :meth:`value` does."""
        if name in self._stored.coded:
            made.copy_(self.value(name))
            return
        _, kind, _, _ = self._places[name]
        flat = made.view(-1)
        with self._opened(name) as stream:
            for start in range(0, flat.numel(), SLICE_ELEMENTS):
                part = flat[start : start + SLICE_ELEMENTS]
                direct = DTYPES[kind] == made.dtype and made.device.type == "cpu"
                buffer = part if direct else torch.empty(part.shape, dtype=DTYPES[kind])
                self._fill(stream, buffer, name)
                if not direct:
                    part.copy_(buffer)

    def _raw(self, name: str) -> Tensor:
        _, kind, shape, _ = self._places[name]
        made = torch.empty(shape, dtype=DTYPES[kind])
        with self._opened(name) as stream:
            self._fill(stream, made.view(-1), name)
        return made

    def _opened(self, name: str) -> BinaryIO:
        file, kind, _, offset = self._places[name]
        if kind not in DTYPES:
            raise WeightsCorrupt(f"{self.source}: this torch cannot read tensor {name} ({kind})")
        stream = open_weights(file, self.source, self._roots)
        stream.seek(offset)
        return stream

    def _fill(self, stream: BinaryIO, buffer: Tensor, name: str) -> None:
        if not buffer.numel():
            return
        into = memoryview(buffer.view(torch.uint8).numpy().data)
        while into:
            count = stream.readinto(into)  # type: ignore[attr-defined]  # a file, whatever its declared type
            if not count:
                raise WeightsCorrupt(f"{self.source}: tensor {name} ends early", hint="copy the file again")
            into = into[count:]

    def _check_extent(self, name: str, codes: str, extent: str, bits: int) -> None:
        rows, words = self._places[codes][2]
        height, width = (int(extent) for extent in self._raw(extent))
        if height != rows or math.ceil(width * bits / 32) != words:
            raise WeightsCorrupt(
                f"{self.source}: {extent} says {height} x {width}, {codes} holds {rows} rows of {words} words",
                hint="copy the file again",
            )


class Reading:
    """The stored tensors as transformers loads them: each is read when it is asked for, and known."""

    def __init__(self, tensors: StoredTensors) -> None:
        self.taken: set[str] = set()
        """Names of what was read."""
        self.failures: list[Exception] = []
        """What reading raised, which transformers passes on as text alone."""
        self.waiting = {name: _Unread(tensors, name, self) for name in sorted(tensors.names)}

    @contextmanager
    def own_failures(self) -> Iterator[None]:
        """Give what reading raised its own type back."""
        try:
            yield
        except Exception as error:
            if self.failures and error is not self.failures[0]:
                raise self.failures[0] from error
            raise


class _Unread:
    """One stored tensor, to transformers a slice of a safetensors file."""

    def __init__(self, tensors: StoredTensors, name: str, reading: Reading) -> None:
        self._tensors, self._name, self._reading = tensors, name, reading

    def __getitem__(self, index: object) -> Tensor:
        self._reading.taken.add(self._name)
        try:
            return self._tensors.value(self._name)[index]  # type: ignore[index]  # whatever torch takes
        except Exception as error:
            self._reading.failures.append(error)
            raise
