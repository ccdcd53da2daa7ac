"""What all expected failures share: a stable code, an HTTP status, an exit code, whether to try again."""

from enum import IntEnum
from typing import Any, ClassVar

from spinal.text import readable, visible


class ExitCode(IntEnum):
    """Exit codes of every command of ``spinal``. (One that is interrupted ends with 130, as a shell has it.)"""

    PASS = 0
    """Done; of an audit: pass or warn."""
    FAILED = 1
    """A check was made and failed: the policy of an audit, an invariant of the ledger."""
    USAGE = 2
    """What was asked for is not understood or not there."""
    NOT_EVALUATED = 3
    """No answer: the work failed, or what it needs (server, database) is away."""
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
        self.from_service = False
        """Whether it came over HTTP, told to whoever writes requests."""

    def to_problem(self, *, here: bool = False) -> dict[str, Any]:
        """The error as an RFC 9457 problem object (without ``instance``), in text that anybody may read and every JSON
        reader takes. Paths stay whole for whoever sits at this machine (``here``)."""
        shown = visible if here else readable
        problem: dict[str, Any] = {
            "type": f"urn:spinal:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": shown(self.detail),
        }
        if self.hint:
            problem["hint"] = shown(self.hint)
        return problem | {readable(name): readable(value) for name, value in self.extra.items()}
