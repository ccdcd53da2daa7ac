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

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from spinal.engine.accounting import account, destinations
from spinal.engine.classes import text_modules
from spinal.engine.slices import require_finite
from spinal.engine.stored import StoredTensors
from spinal.errors import ConfigInvalid

Tensor = torch.Tensor


class BlockStore:
    """The blocks of one streamed model: without storage until :meth:`resident`."""

    def __init__(self, blocks: nn.ModuleList, prefix: str, reader: "Reader") -> None:
        self._blocks = blocks
        self._prefix = prefix
        self._reader = reader
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
                storage[name] = self._reader.read(full, into=storage.get(name))
                if index not in self._checked:
                    require_finite(storage[name], full, self._reader.source)
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


class Reader:
    """Reads weights in the dtype and onto the device of the model."""

    def __init__(self, tensors: StoredTensors, dtype: torch.dtype, device: torch.device) -> None:
        self.source = tensors.source
        self.shape = tensors.shape
        self._tensors, self._dtype, self._device = tensors, dtype, device

    def read(self, name: str, into: Tensor | None = None) -> Tensor:
        """The weight, in the storage of ``into`` where that fits. Raises WeightsCorrupt for a file that ends early."""
        shape = self.shape(name)
        if shape is None:
            raise AssertionError("only weights of floats are asked for")
        fits = into is not None and tuple(into.shape) == shape
        made = into if into is not None and fits else torch.empty(shape, dtype=self._dtype, device=self._device)
        self._tensors.read_into(name, made)
        return made


def open_streamed(
    chosen: type[PreTrainedModel],
    config: PretrainedConfig,
    tensors: StoredTensors,
    count: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[PreTrainedModel, BlockStore, tuple[str, ...]] | None:
    """A model of the class ``chosen`` and of ``count`` blocks that are read when entered, with remarks on stored
    tensors that are not used, or None where this checkpoint has to be loaded whole.

    Raises NonFiniteWeights and WeightsCorrupt for tensors outside the blocks, which are read at once, ConfigInvalid
    where no model can be built.
    """
    try:
        with init_empty_weights(include_buffers=False):
            model: PreTrainedModel = chosen._from_config(config, dtype=dtype)
    except Exception as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)[:300]
        raise ConfigInvalid(
            f"{tensors.source}: config.json describes no model that can be built ({why})",
            hint="put the config.json that was saved with these weights beside them",
        ) from error
    if dtype != torch.float32 and getattr(model, "_keep_in_fp32_modules", None):
        return None
    found = _blocks(model, count)
    if found is None:
        return None
    prefix, blocks = found
    _untie(model)
    asked = dict(model.named_parameters())
    used = tensors.names & asked.keys()
    reader = Reader(tensors, dtype, device)
    inside = [name for name in asked if name.startswith(f"{prefix}.")]
    if (
        model.state_dict().keys() != asked.keys()  # stored buffers
        or not used.issuperset(inside)
        or any(reader.shape(name) != tuple(asked[name].shape) for name in used)
        or any(weight != name or converted for name, (weight, converted) in destinations(model, tensors).items())
    ):
        return None
    remarks = account(model, tensors, used)
    for name in used.difference(inside):
        tensor = reader.read(name)
        require_finite(tensor, name, tensors.source)
        _put(model, name, tensor)
    model.tie_weights(missing_keys=set(asked) - used, recompute_mapping=False)
    outside = (p for name, p in model.named_parameters() if not name.startswith(f"{prefix}."))
    if any(parameter.is_meta for parameter in outside):
        return None
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
    model.eval().requires_grad_(False)
    return model, BlockStore(blocks, prefix, reader), remarks


def _untie(model: PreTrainedModel) -> None:
    """Give tied parameters tensors of their own: which of them the files hold decides what is tied to what, as in
    ``from_pretrained``; a head that training changed stays apart from the embedding."""
    for name in model.all_tied_weights_keys:
        _put(model, name, torch.empty_like(model.get_parameter(name), device="meta"))


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
