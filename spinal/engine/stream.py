"""Weights larger than memory: everything but the blocks stays loaded, a block is read while it is needed.

The model is built without storage; the tensors outside the blocks are read at once, those of a block straight from
its safetensors file each time it is entered. It computes bit for bit what the whole model computes, because it is
the same code on the same values. Checkpoints whose files name their tensors otherwise than the model does cannot be
streamed and are loaded whole: some mixtures of experts are stored expert by expert and fused when loaded, and heads of
GPT-NeoX have another name.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.tensors import read_header
from spinal.engine.classes import opening_class, text_modules
from spinal.engine.slices import SLICE_ELEMENTS, require_finite
from spinal.errors import WeightsCorrupt
from spinal.profile import MeasurementProfile

Tensor = torch.Tensor
STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""dtypes of safetensors files that are streamed."""


class BlockStore:
    """The blocks of one streamed model: without storage until :meth:`resident`."""

    def __init__(self, blocks: nn.ModuleList, prefix: str, stored: "StoredTensors") -> None:
        self._blocks = blocks
        self._prefix = prefix
        self._stored = stored
        self._checked: set[int] = set()
        # Blocks are alike: the next one is read into the storage of the one before.
        self._storage: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def resident(self, index: int) -> Iterator[None]:
        """Block ``index`` (from 0) has its weights inside this context. Raises NonFiniteWeights, WeightsCorrupt."""
        block = self._blocks[index]
        names = [name for name, _ in block.named_parameters()]
        storage, self._storage = self._storage, {}  # taken: a model compared with itself enters a block twice
        try:
            for name in names:
                full = f"{self._prefix}.{index}.{name}"
                storage[name] = self._stored.read(full, into=storage.get(name))
                if index not in self._checked:
                    require_finite(storage[name], full, self._stored.source)
                _put(block, name, storage[name])
            self._checked.add(index)
            yield
        finally:
            for name in names:
                _put(block, name, block.get_parameter(name).to("meta"))
            self._storage = storage
            _return_freed_memory()

    @contextlib.contextmanager
    def on_call(self) -> Iterator[None]:
        """Inside this context an ordinary forward pass of the model reads each block as it comes to it. The pass
        raises NonFiniteWeights, WeightsCorrupt."""
        stack: list[contextlib.AbstractContextManager[None]] = []
        handles = []
        for index, block in enumerate(self._blocks):

            def enter(_module: nn.Module, _args: object, at: int = index) -> None:
                stack.append(self.resident(at))
                stack[-1].__enter__()

            def leave(_module: nn.Module, _args: object, _output: object) -> None:
                stack.pop().__exit__(None, None, None)

            handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave, always_call=True)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class StoredTensors:
    """Where the tensors of a checkpoint lie, and what they become when read.

    Plain reads into the tensor's own memory: pages of a mapped file would count as this process's until unmapped.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
        self.source = checkpoint.source
        self._dtype = dtype
        self._device = device
        self._tensors: dict[str, tuple[Path, torch.dtype, tuple[int, ...], int]] = {}
        for file in checkpoint.weight_files():
            with file.open("rb") as stream:
                data = 8 + int.from_bytes(stream.read(8), "little")
            for name, entry in read_header(file, checkpoint.source).items():
                if entry["dtype"] in STORED:
                    where = (file, STORED[entry["dtype"]], tuple(entry["shape"]), data + entry["data_offsets"][0])
                    self._tensors[name] = where

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor; None where there is none of that name, or none of floats."""
        return self._tensors[name][2] if name in self._tensors else None

    def read(self, name: str, into: Tensor | None = None) -> Tensor:
        """The tensor in the dtype and on the device of the model, in the storage of ``into`` where that fits.

        Raises WeightsCorrupt when the file ends before the tensor does.
        """
        file, stored, shape, offset = self._tensors[name]
        fits = into is not None and tuple(into.shape) == shape
        made = into if into is not None and fits else torch.empty(shape, dtype=self._dtype, device=self._device)
        flat = made.view(-1)
        with file.open("rb", buffering=0) as stream:
            stream.seek(offset)
            for start in range(0, flat.numel(), SLICE_ELEMENTS):
                part = flat[start : start + SLICE_ELEMENTS]
                direct = stored == self._dtype and self._device.type == "cpu"
                buffer = part if direct else torch.empty(part.shape, dtype=stored)
                self._fill(stream, buffer, name)
                if not direct:
                    part.copy_(buffer)
        return made

    def _fill(self, stream: RawIOBase, buffer: Tensor, name: str) -> None:
        into = memoryview(buffer.view(torch.uint8).numpy().data)
        while into:
            count = stream.readinto(into)
            if not count:
                raise WeightsCorrupt(f"{self.source}: tensor {name} ends early", hint="copy the file again")
            into = into[count:]


def open_streamed(
    checkpoint: Checkpoint, profile: MeasurementProfile, device: torch.device
) -> tuple[PreTrainedModel, BlockStore] | None:
    """A model whose blocks are read when entered, or None where this checkpoint has to be loaded whole.

    Raises NonFiniteWeights and WeightsCorrupt for tensors outside the blocks, which are read at once.
    """
    if checkpoint.base is not None or checkpoint.n_layers is None:
        return None
    config = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True, trust_remote_code=False)
    chosen, config = opening_class(config, checkpoint.architecture, checkpoint.source)
    stored = getattr(config.get_text_config(), "dtype", None)
    dtype = torch.float32 if profile.dtype == "float32" else stored
    if not isinstance(dtype, torch.dtype):
        return None
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = chosen._from_config(config, dtype=dtype)
    if dtype != torch.float32 and getattr(model, "_keep_in_fp32_modules", None):
        return None
    model.tie_weights()
    found = _blocks(model, checkpoint.n_layers)
    if found is None:
        return None
    prefix, blocks = found
    tensors = StoredTensors(checkpoint, dtype, device)
    inside = {f"{prefix}.{name}": p for name, p in blocks.named_parameters()}
    buffers = [name for name in model.state_dict() if name not in dict(model.named_parameters(remove_duplicate=False))]
    if buffers or any(tensors.shape(name) != tuple(p.shape) for name, p in inside.items()):
        return None
    for name, parameter in model.named_parameters():
        if name in inside:
            continue
        if tensors.shape(name) != tuple(parameter.shape):
            return None
        tensor = tensors.read(name)
        require_finite(tensor, name, checkpoint.source)
        _put(model, name, tensor)
    model.tie_weights()
    outside = (p for name, p in model.named_parameters(remove_duplicate=False) if not name.startswith(f"{prefix}."))
    if any(parameter.is_meta for parameter in outside):
        return None
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
    model.eval().requires_grad_(False)
    return model, BlockStore(blocks, prefix, tensors)


def _return_freed_memory() -> None:
    """Return freed memory to the system: glibc keeps what was freed between live tensors, which here would grow with
    every block to more than the model itself. A no-op where there is no glibc."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _blocks(model: PreTrainedModel, count: int) -> tuple[str, nn.ModuleList] | None:
    """Name and module of the heaviest list of ``count`` modules that text passes."""
    text = text_modules(model)
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count and m in text]
    return max(lists, key=lambda item: sum(p.numel() for p in item[1].parameters()), default=None)


def _put(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Make ``tensor`` the parameter called ``name``."""
    path, _, leaf = name.rpartition(".")
    root.get_submodule(path)._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
