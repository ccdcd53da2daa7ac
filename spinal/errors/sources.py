"""Models that live elsewhere: a hub, a registry, a bucket, and the store that keeps what was fetched."""

from typing import Any

from spinal.errors.base import ExitCode, SpinalError


class SourceRefused(SpinalError):
    """A source, host, organisation or bucket that this deployment, or this tenant, may not use."""

    code, title, status, exit_code = "source_refused", "Model source not allowed here", 422, ExitCode.USAGE


class ModelAccessRefused(SpinalError):
    """It is there, and the credentials at hand do not open it: a gated model, a token without the right."""

    code, title, status, exit_code = "model_access_refused", "No access to the model", 422, ExitCode.USAGE


class SourceUnavailable(SpinalError):
    """The source did not answer, or not as its protocol says. ``retry_after_s`` is what it asked for, where it did."""

    code, title, status, retryable = "source_unavailable", "Model source did not answer", 503, True

    def __init__(
        self, detail: str, *, hint: str | None = None, retry_after_s: float | None = None, **extra: Any
    ) -> None:
        super().__init__(detail, hint=hint, **extra)
        self.retry_after_s = retry_after_s


class ModelStoreFull(SpinalError):
    """What was fetched and is in use leaves no room for what is to be fetched."""

    code, title, status, retryable = "model_store_full", "No room for the model on this host", 503, True
