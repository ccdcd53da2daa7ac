"""Whether what two modules carry beside their tensors is the same: numbers, texts, functions, whatever they are called.

No list of names of settings stands here: a setting that nobody thought of is compared as well.
"""

import functools
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig

from spinal.checkpoints.configuration import RUNS_BY

OF_TORCH = frozenset(vars(nn.Module())) | {"forward"}
"""What every module has: parameters, buffers and inner modules, which are compared as such, and hooks."""
OF_LOADING = frozenset({"_is_hf_initialized", "_hf_hook", "_old_forward", "gradient_checkpointing", "layer_idx"})
"""How a module came to be, and which one it is."""
SIZES = frozenset({"in_features", "out_features", "num_embeddings", "padding_idx", "nf", "nx"})
"""Told by the shapes of tensors; a table may have more rows than are read."""
ASLEEP = ("dropout", "pdrop")
"""Parts of the names of what acts in training only."""
CACHED = "cached"
"""End of the names of what a module keeps from one pass to the next."""
DROPS = nn.modules.dropout._DropoutNd


def same_value(mine: Any, other: Any, seen: frozenset[tuple[int, int]] = frozenset()) -> bool:
    """Whether two values say the same: tensors bit for bit, functions by what they run, objects by what they hold. What
    cannot be told counts as another value. Configurations are passed over: see :func:`same_settings`.

    Examples
    --------
    >>> same_value((1, "silu", [2.0]), (1, "silu", [2.0])), same_value(torch.relu, torch.tanh)
    (True, False)
    """
    if mine is other or (id(mine), id(other)) in seen:
        return True
    seen = seen | {(id(mine), id(other))}
    if isinstance(mine, int | float) and isinstance(other, int | float):
        return mine == other or (mine != mine and other != other)
    if isinstance(mine, PreTrainedConfig):
        return isinstance(other, PreTrainedConfig)
    if type(mine) is not type(other):
        return False
    if isinstance(mine, torch.Tensor):
        return mine.dtype == other.dtype and torch.equal(mine, other.to(mine.device))
    if isinstance(mine, torch.device | weakref.ref):
        return True
    if isinstance(mine, Mapping):
        return mine.keys() == other.keys() and all(same_value(mine[key], other[key], seen) for key in mine)
    if isinstance(mine, Sequence) and not isinstance(mine, str | bytes):
        return len(mine) == len(other) and all(same_value(a, b, seen) for a, b in zip(mine, other, strict=True))
    if isinstance(mine, nn.Module):
        return same_tensors(mine, other) and same_settings(mine, other, seen=seen)
    if callable(mine):
        return _same_function(mine, other, seen)
    return _same_object(mine, other, seen)


def _same_function(mine: Any, other: Any, seen: frozenset[tuple[int, int]]) -> bool:
    if isinstance(mine, functools.partial):
        return all(same_value(getattr(mine, part), getattr(other, part), seen) for part in ("func", "args", "keywords"))
    if isinstance(mine, types.MethodType):
        return mine.__func__ is other.__func__ and same_value(mine.__self__, other.__self__, seen)
    if isinstance(mine, types.FunctionType):
        ours, theirs = ([cell.cell_contents for cell in each.__closure__ or ()] for each in (mine, other))
        return mine.__code__ == other.__code__ and same_value(ours, theirs, seen)
    if hasattr(mine, "__dict__") and not isinstance(mine, type):
        return _same_object(mine, other, seen)
    return _named(mine) == _named(other)


def _named(function: Any) -> tuple[str, str]:
    return str(getattr(function, "__module__", "")), str(getattr(function, "__qualname__", function))


def _same_object(mine: Any, other: Any, seen: frozenset[tuple[int, int]]) -> bool:
    if isinstance(mine, np.ndarray):
        return mine.dtype == other.dtype and np.array_equal(mine, other)
    if mine == other:
        return True
    return bool(getattr(mine, "__dict__", None)) and same_value(vars(mine), vars(other), seen)


def same_tensors(mine: nn.Module, other: nn.Module, *, shared: int | None = None) -> bool:
    """Whether two modules hold bit for bit the same parameters and stored buffers; of those of which they have not
    equally many rows, the first ``shared``."""
    ours, theirs = mine.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(same_rows(ours[name], theirs[name], shared) for name in ours)


def same_rows(mine: torch.Tensor, other: torch.Tensor, shared: int | None) -> bool:
    """Whether two tensors are the same, bit for bit; where they have not equally many rows, their first ``shared``."""
    if shared is not None and mine.shape[:1] != other.shape[:1]:
        mine, other = mine[:shared], other[:shared]
    return mine.dtype == other.dtype and torch.equal(mine, other.to(mine.device))


def same_settings(
    mine: nn.Module,
    other: nn.Module,
    run: Callable[[], object] | None = None,
    *,
    seen: frozenset[tuple[int, int]] = frozenset(),
) -> bool:
    """Whether two modules are the same but for their parameters and stored buffers: classes, inner modules, what else
    they carry, and of their configurations whatever ``run``, one pass of ``mine``, reads."""
    pairs = list(_module_pairs(mine, other))
    if any(a is None or b is None or type(a) is not type(b) for a, b in pairs):
        return False
    for a, b in pairs:
        if isinstance(a, DROPS) and not a.training:
            continue
        if not same_value(_carried(a), _carried(b), seen):
            return False
    return run is None or _same_reads(pairs, run)


def _module_pairs(mine: nn.Module, other: nn.Module) -> Iterator[tuple[Any, Any]]:
    ours, theirs = dict(mine.named_modules()), dict(other.named_modules())
    for name in ours | theirs:
        yield ours.get(name), theirs.get(name)


def _carried(module: nn.Module) -> dict[str, Any]:
    plain = {
        name: value
        for name, value in vars(module).items()
        if name not in OF_TORCH | OF_LOADING | SIZES
        and not any(part in name for part in ASLEEP)
        and not name.endswith(CACHED)
    }
    # Buffers that are not stored are made from the configuration.
    made = module._non_persistent_buffers_set
    return plain | {f"buffer {name}": module._buffers.get(name) for name in made}


def _same_reads(pairs: list[tuple[Any, Any]], run: Callable[[], object]) -> bool:
    configs = [pair for a, b in pairs for pair in _config_pairs(vars(a), vars(b))]
    read: dict[int, set[str]] = {id(config): set() for config, _ in configs}
    if all(a is b or _public(a) == _public(b) for a, b in configs):
        return True
    with ExitStack() as stack:
        for config in {id(config): config for config, _ in configs}.values():
            stack.enter_context(_recorded(config, read[id(config)]))
        run()
    return all(
        same_value(_told(config, name), _told(another, name))
        for config, another in configs
        for name in read[id(config)]
    )


def _public(config: PreTrainedConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if not name.startswith("_")}


def _config_pairs(mine: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Configurations at the same place on both sides, and those inside them."""
    for name, value in mine.items():
        if isinstance(value, PreTrainedConfig) and isinstance(other.get(name), PreTrainedConfig):
            yield value, other[name]
            yield from _config_pairs(vars(value), vars(other[name]))


@contextmanager
def _recorded(config: PreTrainedConfig, read: set[str]) -> Iterator[None]:
    """Inside this context the names of members that somebody reads are added to ``read``."""
    plain = type(config)

    def reading(self: Any, name: str) -> Any:
        if not name.startswith("__") and name not in RUNS_BY:
            read.add(name)
        return plain.__getattribute__(self, name)

    object.__setattr__(config, "__class__", type(plain.__name__, (plain,), {"__getattribute__": reading}))
    try:
        yield
    finally:
        object.__setattr__(config, "__class__", plain)


def _told(config: Any, name: str) -> Any:
    """A member of a configuration; nothing where it is a method or is not there."""
    value = getattr(config, name, None)
    return None if isinstance(value, types.MethodType) else value
