"""A PEFT adapter merged into its base, and proven to compute what PEFT computes.

PEFT warns where tensors are left over or missing, merges into both sides of a tie, and may write into tensors that
somebody else holds. Here the first two are errors, ties that an adapter splits are split, and what is shared with the
base is never written to.
"""

import contextlib
import copy
import dataclasses
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from spinal.checkpoints.adapter import AGAIN, MERGE_FIRST, read_adapter, trained_tokens
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.engine.adapter_tensors import fill, read_tensors, resize_to, rows_of
from spinal.engine.failures import callers_fault
from spinal.engine.probe_adapter import logits, probe_ids, require_same_logits
from spinal.errors import AdapterInvalid

Tensor = torch.Tensor
SHARE = frozenset({"LORA", "ADALORA", "BOFT", "IA3", "LN_TUNING", "LOHA", "LOKR", "OFT", "TRAINABLE_TOKENS", "VBLORA",
    "VERA"})  # fmt: skip
"""Types that leave the base's tensors alone while they are put around it, so that a copy may share them."""
TAKE_OUT = ("pissa", "olora")
"""Ways of init_lora_weights that then take out of the base what the adapter starts from, one of them in place."""
NOT_READ = ("auto_mapping", "inference_mode", "runtime_config")


def merge_adapter(model: PreTrainedModel, checkpoint: Checkpoint, *, shared: bool = False) -> PreTrainedModel:
    """``model``, the base of ``checkpoint``, with the adapter merged into it; ``model`` itself is used up.

    With ``shared``, somebody else holds the tensors of ``model``: those that change get storage of their own. A base
    with fewer or more rows than the adapter's tables is resized to them.

    Raises AdapterInvalid: tensors left over, missing or of another shape, settings that PEFT does not take, logits that
    are not those of PEFT's own forward pass. Raises DeviceFailed.
    """
    source = checkpoint.source
    with _invalid(source), _without_warnings():
        settings, tensors = read_adapter(checkpoint), read_tensors(checkpoint)
        resized = resize_to(model, tensors, settings, source)
        ids = probe_ids(rows_of(model), trained_tokens(settings))
        ties, of_base = _ties(model), {id(parameter) for parameter in model.parameters()}
        wrapped = _wrap(model, settings, source)
        fill(wrapped, of_base, tensors, source)
        unmerged = logits(wrapped, ids)
        if resized and not bool(torch.isfinite(unmerged).all()):
            raise AdapterInvalid(
                f"{source}: the adapter's vocabulary has {resized[1]} rows and its base's {resized[0]}, and it does "
                "not hold both the input embeddings and the output head of its own",
                hint="save it with save_embedding_layers=True, or " + MERGE_FIRST,
            )
        separated = _separate(wrapped, shared)
        merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
        _share_again(separated)
        _tie_again(merged, ties)
        require_same_logits(unmerged, logits(merged, ids), merged.dtype, source)
    return merged


def adapted_copy(base: PreTrainedModel, checkpoint: Checkpoint) -> PreTrainedModel:
    """The model that the adapter ``checkpoint`` makes of ``base``, which stays bit for bit as it is; tensors that the
    adapter leaves alone are shared. Raises the errors of :func:`merge_adapter`."""
    settings = read_adapter(checkpoint)
    starts = str(settings.get("init_lora_weights")).lower()
    if settings.get("peft_type") not in SHARE or settings.get("kasa_config") or starts.startswith(TAKE_OUT):
        return merge_adapter(copy.deepcopy(base), checkpoint)
    held: dict[int, Any] = {id(p): nn.Parameter(p.data, requires_grad=False) for p in base.parameters()}
    held |= {id(buffer): buffer for buffer in base.buffers()}
    return merge_adapter(copy.deepcopy(base, held), checkpoint, shared=True)


def _invalid(source: str) -> contextlib.AbstractContextManager[None]:
    return callers_fault(lambda why: AdapterInvalid(f"{source}: adapter cannot be applied ({why})", hint=AGAIN))


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Without PEFT's advice: what it warns of is an error here, or mended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _wrap(model: PreTrainedModel, settings: Mapping[str, Any], source: str) -> Any:
    """``model`` inside PEFT, with the tensors of an adapter that was never trained."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = PEFT_TYPE_TO_CONFIG_MAPPING[settings["peft_type"]]
    known = {field.name for field in dataclasses.fields(kind)}
    for name in sorted(settings.keys() - known):
        # A switch of another release; its numbers and names say nothing while the switch is off.
        if settings[name] is True or (isinstance(settings[name], dict) and settings[name]):
            raise AdapterInvalid(
                f"{source}: setting {name!r} of the adapter is not known to PEFT {peft.__version__}", hint=MERGE_FIRST
            )
    mine = {name: settings[name] for name in known - set(NOT_READ) if name in settings}
    return peft.PeftModelForCausalLM(model, kind(**mine, inference_mode=True)).eval()


def _ties(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return [group for group in names.values() if len(group) > 1]


def _separate(wrapped: nn.Module, shared: bool) -> list[tuple[nn.Module, str, Tensor]]:
    """Give what the adapter may change storage of its own, where anybody else holds it; the module and the name of each
    such parameter, and the tensor that it is a copy of."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    holders = Counter(id(parameter) for _, parameter in wrapped.named_parameters(remove_duplicate=False))
    layers = [module.get_base_layer() for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]
    separated = []
    for owner in dict.fromkeys(owner for layer in layers for owner in layer.modules()):
        for name, parameter in owner._parameters.items():
            if parameter is not None and (shared or holders[id(parameter)] > 1):
                owner._parameters[name] = nn.Parameter(parameter.data.clone(), requires_grad=False)
                separated.append((owner, name, parameter.data))
    return separated


def _share_again(separated: Iterable[tuple[nn.Module, str, Tensor]]) -> None:
    """Let go of the copies that were not changed."""
    for owner, name, original in separated:
        mine = owner._parameters[name]
        if mine is not None and mine.shape == original.shape and torch.equal(mine, original):
            owner._parameters[name] = nn.Parameter(original, requires_grad=False)


def _tie_again(model: nn.Module, ties: Iterable[list[str]]) -> None:
    """Make one again what was separated and came out equal."""
    for first, *others in ties:
        kept = model.get_parameter(first)
        for name in others:
            path, _, leaf = name.rpartition(".")
            other = model.get_parameter(name)
            if other is not kept and other.shape == kept.shape and torch.equal(other, kept):
                model.get_submodule(path)._parameters[leaf] = kept
