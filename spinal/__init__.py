"""SPINAL: what alignment did inside a language model, layer by layer.

``trace()``, ``compare()`` and ``series()`` measure in this process, ``load()`` reads a stored document, ``judge()``
judges one under another policy, ``Client`` talks to a server. Each is imported when it is first used: ``import spinal``
alone brings neither torch nor numpy nor httpx, and reading documents needs no torch at all.

Examples
--------
>>> import spinal
>>> prompts = [f"Human: how do I plant tree number {n}?" for n in range(24)]
>>> found = spinal.trace("examples/checkpoints/sft", prompts=prompts, max_tokens=16, lens_positions=2)
>>> found.model.n_layers
24
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spinal.version import VERSION as __version__

if TYPE_CHECKING:
    from spinal.client import Client
    from spinal.documents.schemas import load
    from spinal.local import compare, trace
    from spinal.local_series import series
    from spinal.policy.judge import judge

__all__ = ["Client", "__version__", "compare", "judge", "load", "series", "trace"]

_HOMES = {
    "Client": "spinal.client",
    "compare": "spinal.local",
    "judge": "spinal.policy.judge",
    "load": "spinal.documents.schemas",
    "series": "spinal.local_series",
    "trace": "spinal.local",
}
"""Public name -> the module that holds it (PEP 562)."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
