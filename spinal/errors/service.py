"""How the service refuses or fails a request, and what its client meets."""

from spinal.errors.base import ExitCode, SpinalError


class RequestInvalid(SpinalError):
    code, title, status, exit_code = "request_invalid", "Request does not match the contract", 422, ExitCode.USAGE


class BodyMalformed(SpinalError):
    code, title, status, exit_code = "body_malformed", "Body is not UTF-8 JSON", 400, ExitCode.USAGE


class RequestTooSlow(SpinalError):
    code, title, status = "request_too_slow", "Request did not come in time", 408


class BodyTooLarge(SpinalError):
    code, title, status, exit_code = "body_too_large", "Body too large", 413, ExitCode.USAGE


class MediaTypeUnsupported(SpinalError):
    code, title, status, exit_code = "media_type_unsupported", "Content type not supported", 415, ExitCode.USAGE


class Unauthorized(SpinalError):
    code, title, status = "unauthorized", "API key missing or not valid", 401


class Forbidden(SpinalError):
    code, title, status = "forbidden", "API key lacks the scope", 403


class RequestLimitReached(SpinalError):
    code, title, status = "request_limit_reached", "Tenant sends more requests than it may", 429
    retry_after_s = 5.0
    """Seconds after which the same request may be taken."""


class OpenAuditLimitReached(SpinalError):
    code, title, status = "open_audit_limit_reached", "Tenant has as many open audits as it may", 429
    retry_after_s = 10.0


class PromptSetLimitReached(SpinalError):
    code, title, status = "prompt_set_limit_reached", "Tenant stores as many prompts as it may", 429
    retry_after_s = 3600.0
    """Nobody deletes a prompt set by and by: an operator has to act."""


class IdempotencyKeyLimitReached(SpinalError):
    code, title, status = "idempotency_key_limit_reached", "Tenant has as many Idempotency-Keys kept as it may", 429
    retry_after_s = 600.0


class RouteNotFound(SpinalError):
    code, title, status = "route_not_found", "No such route", 404


class MethodNotAllowed(SpinalError):
    code, title, status = "method_not_allowed", "Method not allowed", 405


class AuditNotFound(SpinalError):
    code, title, status = "audit_not_found", "Audit not found", 404


class TraceNotFound(SpinalError):
    code, title, status = "trace_not_found", "Trace not found", 404


class RegisteredModelNotFound(SpinalError):
    code, title, status = "registered_model_not_found", "Registered model not found", 404


class ModelNameTaken(SpinalError):
    code, title, status = "model_name_taken", "Model name already registered", 409


class ModelVersionNotFound(SpinalError):
    code, title, status = "model_version_not_found", "Version of the registered model not found", 404


class ModelVersionTaken(SpinalError):
    code, title, status = "model_version_taken", "Version stands for another model", 409


class ModelVersionInUse(SpinalError):
    code, title, status = "model_version_in_use", "Version is needed", 409


class ModelAliasNotFound(SpinalError):
    code, title, status = "model_alias_not_found", "Alias of the registered model not found", 404


class ModelAliasesFull(SpinalError):
    code, title, status = "model_aliases_full", "Registered model has no room for an alias", 409


class AuditNotFinished(SpinalError):
    code, title, status = "audit_not_finished", "Audit has no result yet", 409


class AuditHasNoScores(SpinalError):
    code, title, status = "audit_has_no_scores", "Audit has no reference to compare with", 409


class AuditFailed(SpinalError):
    code, title, status = "audit_failed", "Audit ended without a result", 409


class IdempotencyKeyReused(SpinalError):
    code, title, status = "idempotency_key_reused", "Idempotency-Key used with another body", 422


class IdempotencyInFlight(SpinalError):
    code, title, status = "idempotency_in_flight", "A request with this Idempotency-Key is in flight", 409


class DatabaseUnavailable(SpinalError):
    code, title, status, retryable = "database_unavailable", "Database unavailable", 503, True


class NotReady(SpinalError):
    code, title, status = "not_ready", "Not ready", 503


class ServiceUnreachable(SpinalError):
    code, title, status = "service_unreachable", "Service unreachable", 503


class PolicyNotFound(SpinalError):
    code, title, status, exit_code = "policy_not_found", "Policy not found", 404, ExitCode.USAGE


class PolicyNameTaken(SpinalError):
    code, title, status, exit_code = "policy_name_taken", "Policy name stands for other rules", 409, ExitCode.USAGE


class PolicyInUse(SpinalError):
    code, title, status = "policy_in_use", "Policy is in use", 409


class AnswerNotUnderstood(SpinalError):
    """Something answered that is not the service, or a part of its answer is missing."""

    code, title, status = "answer_not_understood", "The answer is not one of the service", 502
