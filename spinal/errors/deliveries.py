"""What goes wrong where somebody is told of an event."""

from typing import Any

from spinal.errors.base import SpinalError


class DeliveryFailed(SpinalError):
    """A webhook or a registry did not take what it was told. ``final``: another attempt would be in vain."""

    code, title, status, retryable = "delivery_failed", "Delivery was not taken", 502, True

    def __init__(self, detail: str, *, hint: str | None = None, final: bool = False, **extra: Any) -> None:
        super().__init__(detail, hint=hint, **extra)
        self.final = final
        self.retryable = not final  # type: ignore[misc]  # of this occurrence
