"""Every way the product refuses or fails, as classes with a stable code.

One table serves all surfaces: the HTTP status, the exit code of the command line, and whether a run may
be tried again. A message says what is wrong and where; ``hint`` says what to do next.
"""

from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """Exit codes of the command line (``design.md`` section 5)."""

    PASS = 0
    POLICY_FAILED = 1
    USAGE = 2
    NOT_EVALUATED = 3
    TIMED_OUT = 4
    INCONCLUSIVE = 5


class SpinalError(Exception):
    """Base of all expected failures.

    Attributes: ``code`` stable machine-readable name; ``title`` short text, the same for every
    occurrence; ``status`` HTTP status; ``exit_code`` of the command line; ``retryable`` whether another
    attempt of the same run can succeed; ``ends_process`` whether the process it happened in cannot be trusted with
    another. ``detail`` and ``hint`` describe this occurrence; ``extra`` holds further members of the problem
    object (JSON values only).
    """

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[ExitCode] = ExitCode.NOT_EVALUATED
    retryable: ClassVar[bool] = False
    ends_process: ClassVar[bool] = False

    def __init__(self, detail: str, *, hint: str | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.extra = extra

    def to_problem(self) -> dict[str, Any]:
        """The error as an RFC 9457 problem object (without ``instance``), in text that every JSON reader takes."""
        problem: dict[str, Any] = {
            "type": f"urn:spinal:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": _readable(self.detail),
        }
        if self.hint:
            problem["hint"] = _readable(self.hint)
        return problem | {name: _readable(value) for name, value in self.extra.items()}


def _readable(value: Any) -> Any:
    """``value`` without what neither UTF-8 nor a database can hold: NUL (tensor names of damaged files have it) and
    lone surrogates (file names that are not UTF-8); they are written out instead."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
    if isinstance(value, dict):
        return {_readable(name): _readable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(item) for item in value]
    return value


# --- checkpoints -------------------------------------------------------------------------------------


class ModelNotFound(SpinalError):
    code, title, status, exit_code = "model_not_found", "Model not found", 422, ExitCode.USAGE


class ModelReferenceInvalid(SpinalError):
    code, title, status, exit_code = "model_reference_invalid", "Model reference not understood", 422, ExitCode.USAGE


class ModelPathRefused(SpinalError):
    code, title, status, exit_code = "model_path_refused", "Path outside the allowed roots", 422, ExitCode.USAGE


class ModelChanged(SpinalError):
    code, title, status = "model_changed", "Checkpoint changed after submission", 409


class ConfigInvalid(SpinalError):
    code, title, status = "config_invalid", "config.json missing or unreadable", 422


class WeightsMissing(SpinalError):
    code, title, status = "weights_missing", "No safetensors weights", 422


class WeightsCorrupt(SpinalError):
    code, title, status = "weights_corrupt", "Weights truncated or corrupt", 422


class PickleWeightsRefused(SpinalError):
    code, title, status = "pickle_weights_refused", "Pickle weights are not read", 422


class RemoteCodeRefused(SpinalError):
    code, title, status = "remote_code_refused", "Checkpoint needs its own code", 422


class NonFiniteWeights(SpinalError):
    code, title, status = "non_finite_weights", "Weights hold NaN or infinity", 422


class ArchitectureUnsupported(SpinalError):
    code, title, status = "architecture_unsupported", "Architecture not supported", 422


class TokenizerInvalid(SpinalError):
    code, title, status = "tokenizer_invalid", "Tokenizer missing or unreadable", 422


class TokenizerMismatch(SpinalError):
    code, title, status = "tokenizer_mismatch", "The pair does not share a tokenizer", 422


class PairMismatch(SpinalError):
    code, title, status = "pair_mismatch", "The pair does not share a shape", 422


class AdapterInvalid(SpinalError):
    code, title, status = "adapter_invalid", "Adapter unreadable or without its base", 422


# --- prompts and profiles ----------------------------------------------------------------------------


class PromptFileNotFound(SpinalError):
    code, title, status, exit_code = "prompt_file_not_found", "Prompt file not found", 422, ExitCode.USAGE


class PromptSetInvalid(SpinalError):
    code, title, status, exit_code = "prompt_set_invalid", "Prompt file not understood", 422, ExitCode.USAGE


class PromptSetEmpty(SpinalError):
    code, title, status, exit_code = "prompt_set_empty", "No usable prompt", 422, ExitCode.USAGE


class PromptSetNotFound(SpinalError):
    code, title, status, exit_code = "prompt_set_not_found", "Prompt set not found", 422, ExitCode.USAGE


class ContextExceeded(SpinalError):
    code, title, status, exit_code = "context_exceeded", "Prompts longer than the model's context", 422, ExitCode.USAGE


class ProfileInvalid(SpinalError):
    code, title, status, exit_code = "profile_invalid", "Profile not understood", 422, ExitCode.USAGE


class FingerprintMismatch(SpinalError):
    code, title, status = "fingerprint_mismatch", "Traces measured under different profiles", 409


class TracesNotComparable(SpinalError):
    code, title, status = "traces_not_comparable", "Traces cannot be compared", 409


class DocumentInvalid(SpinalError):
    code, title, status, exit_code = "document_invalid", "Stored document not understood", 422, ExitCode.USAGE


class UsageError(SpinalError):
    code, title, status, exit_code = "usage", "Command line not understood", 400, ExitCode.USAGE


# --- measuring ---------------------------------------------------------------------------------------


class LensParityFailed(SpinalError):
    code, title = "lens_parity_failed", "Lens disagrees with the model's own output"


class NonFiniteActivations(SpinalError):
    code, title = "non_finite_activations", "Activations hold NaN or infinity"


class OutOfMemory(SpinalError):
    """The device's memory did not suffice, at the profile's batch size and at half of it. Not retried: the same work
    on the same kind of worker would fail again."""

    code, title = "out_of_memory", "Out of memory"


class DeviceFailed(SpinalError):
    """A device-side assert or another error that poisons the process's context on the device."""

    code, title, retryable, ends_process = "device_failed", "The accelerator failed", True, True


class Cancelled(SpinalError):
    code, title, status = "cancelled", "Cancelled", 409


class DeadlineExceeded(SpinalError):
    code, title, exit_code = "deadline_exceeded", "Run took too long", ExitCode.TIMED_OUT


class RunStalled(SpinalError):
    code, title, retryable = "run_stalled", "Run made no progress", True


class VersionRetired(SpinalError):
    code, title, status = "version_retired", "Accepted for a version that no longer runs", 409


class StorageUnavailable(SpinalError):
    code, title, status, retryable = "storage_unavailable", "Storage full or not writable", 503, True


class CaptureMissing(SpinalError):
    code, title, retryable = "capture_missing", "A stored capture is gone", True


class LeaseLost(SpinalError):
    code, title, retryable = "lease_lost", "The worker lost its lease", True


class AttemptsExhausted(SpinalError):
    code, title = "attempts_exhausted", "Every attempt failed"


class DependencyFailed(SpinalError):
    code, title = "dependency_failed", "A trace this comparison needs failed"


class InternalError(SpinalError):
    code, title, retryable = "internal_error", "Internal error", True


# --- HTTP --------------------------------------------------------------------------------------------


class RequestInvalid(SpinalError):
    code, title, status, exit_code = "request_invalid", "Request does not match the contract", 422, ExitCode.USAGE


class BodyMalformed(SpinalError):
    code, title, status, exit_code = "body_malformed", "Body is not UTF-8 JSON", 400, ExitCode.USAGE


class BodyTooLarge(SpinalError):
    code, title, status, exit_code = "body_too_large", "Body too large", 413, ExitCode.USAGE


class MediaTypeUnsupported(SpinalError):
    code, title, status, exit_code = "media_type_unsupported", "Content type not supported", 415, ExitCode.USAGE


class Unauthorized(SpinalError):
    code, title, status = "unauthorized", "API key missing or not valid", 401


class Forbidden(SpinalError):
    code, title, status = "forbidden", "API key lacks the scope", 403


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


def all_errors() -> dict[str, type[SpinalError]]:
    """Every error class by its code, in code order (docs and contract tests render this table)."""
    found: dict[str, type[SpinalError]] = {}
    pending = list(SpinalError.__subclasses__())
    while pending:
        error = pending.pop()
        found[error.code] = error
        pending.extend(error.__subclasses__())
    return dict(sorted(found.items()))
