"""Whatever a library raises on a caller's file is that file's fault, told once in one clean line.

Readers of such files raise what they like: ImportError for a missing optional package, ZeroDivisionError for a number
of heads, a Rust panic that is no Exception. None of it is an error of ours, and another attempt would meet it again.
"""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spinal.errors.base import SpinalError

MOST_TEXT = 300
SYSTEM = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE,
    errno.ENOMEM, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT})  # fmt: skip
"""Errors of disks, mounts and the machine: no fault of a file, and another attempt may succeed."""
PANIC = "PanicException"
"""What Rust extensions raise when Rust code panics; each extension has a class of its own, below BaseException."""
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)")
ABSOLUTE = re.compile(r"(?<![\w.:/~-])/(?:[^\s/'\"`,;:()\[\]{}<>]+/)+")
"""The folders of an absolute path; the last part stays."""
TOLD_IN_TEXT = frozenset({"Exception", "RuntimeError", "SafetensorError", PANIC})
"""Types in which libraries in Rust and C++ tell of disk and memory. In the text of others stand words of callers."""
ALLOCATION = (
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "memory allocation of",
    "can't start new thread",
)


@contextmanager
def callers_fault(make: Callable[[str], SpinalError], *, ours: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Turn what is raised inside into ``make(reason)``, where ``reason`` is one short line without paths of this
    machine. Passes: our own errors, ``ours``, running out of memory, faults of disks and of the system, and what ends
    the process.

    Examples
    --------
    >>> from spinal.errors import TokenizerInvalid
    >>> with callers_fault(lambda why: TokenizerInvalid(f"my-model: {why}")):
    ...     1 // 0
    Traceback (most recent call last):
    spinal.errors.checkpoints.TokenizerInvalid: my-model: ZeroDivisionError: integer division or modulo by zero
    """
    try:
        yield
    except BaseException as error:
        if _passes(error, ours):
            raise
        raise make(reason(error)) from error


def _passes(error: BaseException, ours: tuple[type[BaseException], ...]) -> bool:
    if not isinstance(error, Exception):
        return type(error).__name__ != PANIC
    return isinstance(error, (SpinalError, MemoryError, *ours)) or is_of_the_system(error)


def is_of_the_system(error: BaseException) -> bool:
    """Whether disk, mount or memory failed. Libraries in Rust and C++ write that into the text of their own errors."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in SYSTEM
    return system_error_number(error) in SYSTEM or lacks_memory(error)


def system_error_number(error: BaseException) -> int | None:
    """``errno`` of an error of the operating system; None where it is none, or has no number. Libraries in Rust write
    it into the text of errors of their own."""
    if isinstance(error, OSError):
        return error.errno
    named = re.search(r"\(os error (\d+)\)", _told_by_library(error))
    return None if named is None else int(named[1])


def lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out, in Python or in a library."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return any(sign in _told_by_library(error) for sign in ALLOCATION)


def _told_by_library(error: BaseException) -> str:
    return str(error) if type(error).__name__ in TOLD_IN_TEXT else ""


def reason(error: BaseException) -> str:
    """What went wrong in one line of at most 300 characters: no folders of this machine, no escape sequences. Long text
    keeps its beginning and its end: the cause of an error of many lines often stands last."""
    text = " | ".join(line.strip() for line in _clean(str(error)).splitlines() if line.strip())
    kind = type(error).__name__
    # A KeyError's text is a bare name, an AssertionError's is often empty.
    plain = type(error) in (ValueError, OSError, RuntimeError)
    whole = f"{kind}: {text}" if text and not plain else text or kind
    if len(whole) <= MOST_TEXT:
        return whole
    half = (MOST_TEXT - 5) // 2
    return f"{whole[:half]} ... {whole[-half:]}"


def shown(text: str) -> str:
    """What a caller wrote, as one short printable line for an error."""
    return "".join(letter if letter.isprintable() else " " for letter in _encodable(text)[:200])


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _clean(text: str) -> str:
    text = ESCAPES.sub("", _encodable(text))
    text = ABSOLUTE.sub("", text)
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
