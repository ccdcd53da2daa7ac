"""Every tensor of an adapter's file in its place inside PEFT: none left over, none missing, none of another shape."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from safetensors.torch import load
from torch import nn
from transformers import PreTrainedModel

from spinal.checkpoints.adapter import AGAIN, PREFIX, trained_tokens
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import ADAPTER_WEIGHTS
from spinal.engine.failures import system_errors
from spinal.errors import AdapterInvalid

Tensor = torch.Tensor
TABLES = ("weight", "base_layer.weight", "token_adapter.base_layer.weight")
"""Below the name of an embedding or a head: how PEFT calls the whole table when it saves it."""
PUT_IN = ("default", "modules_to_save")
"""What stands in the names of some releases and not of others."""
MISMATCH = re.compile(r"size mismatch for (\S+): .*?torch\.Size\(\[(.*?)\]\).*?torch\.Size\(\[(.*?)\]\)")


def read_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Name -> tensor of the adapter's file, read whole: a mapped file that is cut off meanwhile ends the process."""
    path = checkpoint.path / ADAPTER_WEIGHTS
    with system_errors(path):
        return load(path.read_bytes())


def rows_of(model: PreTrainedModel) -> int:
    """Of the input embeddings."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


def resize_to(
    model: PreTrainedModel, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str
) -> tuple[int, int] | None:
    """Give the tables of ``model`` as many rows as those of the adapter; (rows before, rows now), or None where there
    was nothing to do. Rows that are new hold NaN until the adapter fills them.

    Raises AdapterInvalid when the adapter's own tables differ in rows.
    """
    before = rows_of(model)
    rows = _rows([name for name, module in model.named_modules() if module in _tables(model)], tensors)
    trained = trained_tokens(settings)
    if not rows and set(range(before, max(trained, default=-1) + 1)) <= set(trained):
        rows = {max(before, max(trained, default=-1) + 1)}
    if len(rows) > 1:
        raise AdapterInvalid(
            f"{source}: the adapter's tables have {' and '.join(map(str, sorted(rows)))} rows", hint=AGAIN
        )
    now = rows.pop() if rows else before
    if now == before:
        return None
    model.resize_token_embeddings(now, mean_resizing=False)
    for table in _tables(model):
        for parameter in table.parameters():
            parameter.data[before:] = torch.nan
    return before, now


def _tables(model: PreTrainedModel) -> list[nn.Module]:
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return [table for table in tables if isinstance(table, nn.Module)]


def _rows(names: Iterable[str], tensors: Mapping[str, Tensor]) -> set[int]:
    stored = (tensors.get(f"{PREFIX}{name}.{table}") for name in names for table in TABLES)
    return {tensor.shape[0] for tensor in stored if tensor is not None and tensor.dim() == 2}


def fill(wrapped: Any, of_base: set[int], tensors: Mapping[str, Tensor], source: str) -> None:
    """Put ``tensors`` into a model inside PEFT. ``of_base`` are ids of the parameters that the base brought.

    Raises AdapterInvalid naming the first tensor that does not fit, matches nothing, or is missing.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    _check_names(tensors, source)
    whole = {n: p for n, p in wrapped.named_parameters(remove_duplicate=False) if id(p) in of_base and n in tensors}
    for name, parameter in whole.items():
        _replace(parameter, tensors[name], name, source)
    rest = {name: t for name, t in tensors.items() if name not in whole and not _is_said_twice(name, tensors)}
    try:
        found: Any = set_peft_model_state_dict(wrapped, rest)
    except KeyError as error:
        raise AdapterInvalid(f"{source}: the adapter lacks tensor {error.args[0]}", hint=AGAIN) from error
    except RuntimeError as error:
        for name, theirs, ours in MISMATCH.findall(str(error)):
            raise _misfit(name, theirs, ours, source) from error
        raise
    for name in sorted(found.unexpected_keys):  # PEFT goes through a set of names
        count = f"{len(found.unexpected_keys)} of {len(tensors)}"
        raise AdapterInvalid(
            f"{source}: {count} tensors of the adapter match nothing in its base, first {name}",
            hint="name the base that it was trained on, or " + AGAIN,
        )
    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    lacking = _lacking(wrapped, expected, set(found.missing_keys) - whole.keys(), tensors)
    for name in lacking:
        count = f"{len(lacking)} of {len(expected)}"
        raise AdapterInvalid(f"{source}: {count} tensors of the adapter are missing, first {name}", hint=AGAIN)


def _is_said_twice(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether another name holds the same: where the vocabulary was resized, PEFT saves a table that is a module to
    save for the second time under the name that it has inside its wrapper, and does not read that one."""
    first = tensors.get(name.replace(".modules_to_save.", ".", 1))
    return ".modules_to_save." in name and first is not None and torch.equal(first, tensors[name])


def _check_names(tensors: Mapping[str, Tensor], source: str) -> None:
    """PEFT knows a tensor with and without the adapter's name inside; of two, it would take either."""
    first: dict[str, str] = {}
    for name in sorted(tensors):
        if _is_said_twice(name, tensors):
            continue
        other = first.setdefault(".".join(part for part in name.split(".") if part not in PUT_IN), name)
        if other != name:
            raise AdapterInvalid(f"{source}: {other} and {name} are the same tensor", hint=AGAIN)


def _replace(parameter: nn.Parameter, tensor: Tensor, name: str, source: str) -> None:
    """As new data of the same Parameter: ties hold, and whoever shares the old data keeps it."""
    if tensor.shape != parameter.shape:
        raise _misfit(name, _extents(tensor), _extents(parameter), source)
    parameter.data = tensor.to(parameter.device, parameter.dtype, copy=True)


def _misfit(name: str, theirs: str, ours: str, source: str) -> AdapterInvalid:
    return AdapterInvalid(
        f"{source}: tensor {name} of the adapter has shape ({theirs}), and its base has ({ours}) there",
        hint="name the base that it was trained on; where its vocabulary was resized, save embeddings and head with it",
    )


def _extents(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape))


def _lacking(
    wrapped: nn.Module, expected: Mapping[str, Tensor], missing: set[str], given: Mapping[str, Tensor]
) -> list[str]:
    """Names that PEFT itself would save for this model, of which the file filled nothing. Several names may stand for
    one tensor, and files of older releases have other names: it is told by where a tensor lies."""
    names: dict[int, set[str]] = defaultdict(set)
    for name, tensor in wrapped.state_dict().items():
        names[tensor.data_ptr()].add(name)
    return [
        name
        for name, tensor in expected.items()
        if name not in given and tensor.numel() and names[tensor.data_ptr()] <= missing
    ]
