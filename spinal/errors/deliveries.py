"""What goes wrong where somebody is told of an event, or tells of one."""

from typing import Any

from spinal.errors.base import ExitCode, SpinalError


class DeliveryFailed(SpinalError):
    """A webhook or a registry did not take what it was told. ``final``: another attempt would be in vain."""

    code, title, status, retryable = "delivery_failed", "Delivery was not taken", 502, True

    def __init__(self, detail: str, *, hint: str | None = None, final: bool = False, **extra: Any) -> None:
        super().__init__(detail, hint=hint, **extra | ({"final": True} if final else {}))
        self.final = final
        self.retryable = not final  # type: ignore[misc]  # of this occurrence


class SignatureInvalid(SpinalError):
    """A webhook that nobody who holds its secret has signed, or not now: absent, malformed, wrong, or too old."""

    code, title, status = "signature_invalid", "Signature of the webhook is not valid", 401


class WebhookNotFound(SpinalError):
    code, title, status, exit_code = "webhook_not_found", "Webhook not found", 404, ExitCode.USAGE


class DeliveryNotFound(SpinalError):
    code, title, status, exit_code = "delivery_not_found", "Delivery not found", 404, ExitCode.USAGE


class WebhookUrlRefused(SpinalError):
    """An address that is malformed, in clear, or not one that webhooks of this service may lead to."""

    code, title, status, exit_code = "webhook_url_refused", "Address of the webhook not allowed", 422, ExitCode.USAGE


class WebhookLimitReached(SpinalError):
    code, title, status = "webhook_limit_reached", "Tenant has as many webhooks as it may", 409


class WebhookDisabled(SpinalError):
    code, title, status = "webhook_disabled", "Webhook is disabled", 409


class WebhookRotated(SpinalError):
    """The generation that was to be replaced is not the present one, nor was it until a moment ago."""

    code, title, status = "webhook_rotated", "Webhook is at another generation", 409


class WebhooksNotConfigured(SpinalError):
    """Their secrets are derived from a pepper that this process was not given."""

    code, title, status = "webhooks_not_configured", "Service cannot sign webhooks", 503
