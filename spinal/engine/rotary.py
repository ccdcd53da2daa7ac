"""Rotary scalings that follow the length of a forward pass.

transformers keeps the frequencies of the longest pass so far (``dynamic``), so that numbers would depend on what ran
before. And prompts of different lengths in one batch would all be read at the longest one's frequencies (``longrope``
too): see :func:`spinal.engine.probes.check_probes`.
"""

from typing import Any

from torch import nn

CACHED = "max_seq_len_cached"


def forget_lengths(model: nn.Module) -> bool:
    """Make every pass of ``model`` independent of the passes before it; returns whether its frequencies follow the
    length of a pass at all."""
    following = [module for module in model.modules() if any(_follows_length(kind) for kind in _kinds(module))]
    for module in following:
        module.register_forward_pre_hook(_forget)
    return bool(following)


def _kinds(module: nn.Module) -> list[Any]:
    kind = getattr(module, "rope_type", None)
    return list(kind.values()) if isinstance(kind, dict) else [kind]


def _follows_length(kind: Any) -> bool:
    return isinstance(kind, str) and ("dynamic" in kind or kind == "longrope")


def _forget(module: nn.Module, _args: object) -> None:
    for name in [name for name in vars(module) if name.endswith(CACHED)]:
        prefix, original = name.removesuffix(CACHED), getattr(module, "original_max_seq_len", None)
        if original is not None and getattr(module, name) > original:
            buffer = f"{prefix}inv_freq"
            fresh = getattr(module, f"{prefix}original_inv_freq").to(getattr(module, buffer).device)
            module.register_buffer(buffer, fresh, persistent=False)
            setattr(module, name, original)
