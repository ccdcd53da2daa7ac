"""Two models of one shape taken apart into places, so that tensors of one can run under the configuration of the other.

A place is the input embeddings (whatever acts ahead of the first block), one block, or the read-out (final norm and
head). A side is ``REFERENCE`` or ``CANDIDATE``. Where the configurations are equal a block of either side is that
side's own module; where they differ it is the module of the side whose configuration runs, holding the tensors of the
other. A table that is tied counts on both ends: the read-out holds its own tensors, whatever the embeddings hold.
"""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spinal.engine.anatomy import Anatomy
from spinal.engine.session import Session
from spinal.engine.tokens import Batch
from spinal.engine.transport import Readout
from spinal.engine.walk import BlockCall, Prepared, prepare, run_block
from spinal.engine.weights import shared_rows, unlike_rows

Tensor = torch.Tensor
BoolArray = npt.NDArray[np.bool_]
Tensors = Mapping[str, Tensor]
REFERENCE, CANDIDATE = "b", "a"


@dataclass(frozen=True, eq=False)
class Hybrids:
    """What runs any mixture of places of two sides."""

    reference: Session
    candidate: Session
    crossed: bool
    """Whether tensors of one side have to run in modules of the other, since their configurations differ."""

    def side(self, name: str) -> Session:
        """The session of a side."""
        return self.reference if name == REFERENCE else self.candidate

    @contextlib.contextmanager
    def resident(self, index: int, sides: Iterable[str]) -> Iterator[None]:
        """Block ``index`` (from 0) of these sides has its weights inside this context."""
        with contextlib.ExitStack() as stack:
            for name in sorted(sides):
                stack.enter_context(self.side(name).anatomy.resident(index))
            yield

    def prepared(self, configuration: str, tensors: str, batches: Sequence[Batch]) -> list[Prepared]:
        """r_0 and the arguments of every block, from the embeddings of side ``tensors``. Raises
        ArchitectureUnsupported."""
        runs, holds = self._runs(configuration, tensors), self.side(tensors)
        with _holding(runs.anatomy.core, embedding_tensors(holds.anatomy) if runs is not holds else {}):
            return prepare(runs.anatomy, batches, f"{runs.source}, stitched")

    def run(self, configuration: str, tensors: str, index: int, hidden: Tensor, call: BlockCall) -> Tensor:
        """Residual after block ``index`` of side ``tensors`` for the residual (B, T, d) before it."""
        runs, holds = self._runs(configuration, tensors), self.side(tensors)
        worn = tensors_of(holds.anatomy.blocks[index]) if runs is not holds else {}
        with _holding(runs.anatomy.blocks[index], worn):
            return run_block(runs.anatomy, index, hidden, call)

    def readout(self, configuration: str, tensors: str) -> Readout:
        """Final norm and head of side ``tensors``; one value for one pair of sides."""
        runs, holds = self._runs(configuration, tensors), self.side(tensors)
        if runs is holds:
            return runs.readout
        return self._crossed_readouts[configuration]

    @cached_property
    def _crossed_readouts(self) -> dict[str, Readout]:
        pairs = {REFERENCE: (self.reference, self.candidate), CANDIDATE: (self.candidate, self.reference)}
        return {name: _crossed_readout(*pair) for name, pair in pairs.items()}

    def _runs(self, configuration: str, tensors: str) -> Session:
        return self.side(configuration if self.crossed else tensors)


def _crossed_readout(runs: Session, holds: Session) -> Readout:
    modules = []
    for mine, other in zip(runs.anatomy.readout, holds.anatomy.readout, strict=True):
        made = copy.deepcopy(mine)
        for name, tensor in tensors_of(other).items():
            _put(made, name, tensor)
        modules.append(made)
    return Readout(replace(runs.anatomy, readout=tuple(modules), head=holds.anatomy.head), runs.readout.vocabulary)


def embedding_tensors(anatomy: Anatomy) -> dict[str, Tensor]:
    """Tensors of the model without its head that lie outside the blocks and the read-out, by name."""
    later = {part for module in (anatomy.blocks, *anatomy.readout, anatomy.head) for part in module.modules()}
    return _own((name, module) for name, module in anatomy.core.named_modules() if module not in later)


def readout_tensors(anatomy: Anatomy) -> dict[str, Tensor]:
    """Tensors of final norm and head, by place and name."""
    parts = (*anatomy.readout, anatomy.head)
    return {f"{at}.{name}": tensor for at, part in enumerate(parts) for name, tensor in tensors_of(part).items()}


def fitting(mine: Tensors, other: Tensors) -> bool:
    """Whether each side's tensors can stand in the other's modules. Rows of a vocabulary may differ in number."""
    alike = mine.keys() == other.keys() and all(mine[name].shape[1:] == other[name].shape[1:] for name in mine)
    return alike and all(mine[name].dim() == 2 for name in unlike_rows(mine, other))


def equal(mine: Tensors, other: Tensors, shared: int) -> bool:
    """Whether both hold bit for bit the same values; of tables with unequally many rows the first ``shared`` count."""
    if not fitting(mine, other):
        return False
    ours, theirs = shared_rows(mine, other, shared)
    return all(
        tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name].to(tensor.device))
        for name, tensor in ours.items()
    )


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and stored buffers of a module and all within it. What is not stored belongs to the configuration."""
    return _own(module.named_modules())


def _own(modules: Iterable[tuple[str, nn.Module]]) -> dict[str, Tensor]:
    """The same of each of these modules alone."""
    found: dict[str, Tensor] = {}
    for prefix, module in modules:
        stored = {name: buffer for name, buffer in module._buffers.items() if _is_stored(module, name)}
        own = {**module._parameters, **stored}
        found |= {f"{prefix}.{name}".lstrip("."): tensor for name, tensor in own.items() if tensor is not None}
    return found


def _is_stored(module: nn.Module, buffer: str) -> bool:
    return buffer not in module._non_persistent_buffers_set


@contextlib.contextmanager
def _holding(module: nn.Module, tensors: Tensors) -> Iterator[None]:
    """Inside this context ``module`` computes with these tensors."""
    before = {name: _put(module, name, tensor) for name, tensor in tensors.items()}
    try:
        yield
    finally:
        for name, tensor in before.items():
            _put(module, name, tensor)


def _put(root: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Make ``tensor`` the parameter or buffer of that name, and return what it was."""
    path, _, leaf = name.rpartition(".")
    module = root.get_submodule(path)
    where = module._parameters if leaf in module._parameters else module._buffers
    before = where[leaf]
    if before is None:
        raise AssertionError(f"{name} holds no tensor")
    where[leaf] = tensor  # type: ignore[assignment]  # inside inference any tensor serves as a parameter
    return before
