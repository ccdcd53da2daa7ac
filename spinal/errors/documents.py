"""What can be wrong with prompts, profiles and stored documents."""

from spinal.errors.base import ExitCode, SpinalError


class PromptFileNotFound(SpinalError):
    code, title, status, exit_code = "prompt_file_not_found", "Prompt file not found", 422, ExitCode.USAGE


class PromptSetInvalid(SpinalError):
    code, title, status, exit_code = "prompt_set_invalid", "Prompt file not understood", 422, ExitCode.USAGE


class PromptSetEmpty(SpinalError):
    code, title, status, exit_code = "prompt_set_empty", "No usable prompt", 422, ExitCode.USAGE


class PromptSetNotFound(SpinalError):
    code, title, status, exit_code = "prompt_set_not_found", "Prompt set not found", 422, ExitCode.USAGE


class StoredPromptSetNotFound(SpinalError):
    code, title, status, exit_code = "stored_prompt_set_not_found", "Stored prompt set not found", 404, ExitCode.USAGE


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


class NoVerdict(SpinalError):
    code, title, status, exit_code = "no_verdict", "A trace has no verdict to tell", 409, ExitCode.USAGE
