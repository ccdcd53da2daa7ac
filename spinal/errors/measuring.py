"""How a measurement or its run fails."""

from spinal.errors.base import ExitCode, SpinalError


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
    code, title = "deadline_exceeded", "Run took too long"


class AuditStillRunning(DeadlineExceeded):
    """What a client waited for goes on: the time to wait is over, not that of the audit."""

    code, title, status, exit_code = "audit_still_running", "Audit goes on after the wait", 504, ExitCode.TIMED_OUT


class RunStalled(SpinalError):
    code, title, retryable = "run_stalled", "Run made no progress", True


class VersionRetired(SpinalError):
    code, title, status = "version_retired", "Accepted for a version that no longer runs", 409


class StorageUnavailable(SpinalError):
    """Scratch folder or artifact store: full, away, or not to be written. No fault of a run, and not charged to it."""

    code, title, status, retryable = "storage_unavailable", "Storage full or not writable", 503, True


class StorageRefused(StorageUnavailable):
    """What somebody has to set right: credentials, a bucket that is not there, a store of another installation."""

    code, title = "storage_refused", "The artifact store cannot be used as it is set up"


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
