"""Training runs that are audited while they run (``docs/training.md``).

``SpinalCallback`` is a callback of the Hugging Face Trainer and of every trainer built on it, TRL's for example.
``send_spooled`` sends what a run left behind. Importing this package brings neither torch nor transformers; the class
does, which is made when it is first asked for, because it has to stand on ``transformers.TrainerCallback``.
"""

from typing import TYPE_CHECKING, Any

from spinal.integrations.left import send_spooled

if TYPE_CHECKING:
    from spinal.integrations.callback import Hooks as SpinalCallback

__all__ = ["SpinalCallback", "send_spooled"]


def __getattr__(name: str) -> Any:
    if name != "SpinalCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from spinal.integrations.callback import callback_class

    return callback_class()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
