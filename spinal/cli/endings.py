"""How a command ends that did not come to its end."""

from collections.abc import Callable
from pathlib import Path
from traceback import format_exception

import typer

from spinal.cli.output import say
from spinal.cli.signals import Stopped, last_words_of, said
from spinal.errors import InternalError, SpinalError, UsageError
from spinal.extras import extra_of, install_hint


def stopped_code(stopped: Stopped, unwritten: str | None) -> int:
    """Say that a signal ended the command, where nobody has; the exit code. ``unwritten`` is what holds of its work."""
    if not stopped.told:
        say(last_words_of(stopped.exit_code - 128, unwritten))
        said.set()
    return stopped.exit_code


def explained(error: BaseException) -> SpinalError:
    """An error that is not ours, as one that can be shown: its cause in one line. The traceback of a defect is kept in
    a file that the hint names."""
    # Of the command line's parser; its classes have no public name that all versions of it share.
    format_message: Callable[[], str] | None = getattr(error, "format_message", None)
    if format_message is not None:
        place = getattr(getattr(error, "ctx", None), "command_path", "spinal")
        return UsageError(_one_line(format_message()), hint=f"{place} --help")
    # The parser answers with Abort where a command ends in EOFError, which may be that of a damaged file.
    found = (error.__cause__ or error) if isinstance(error, typer.Abort) else error
    if isinstance(found, ModuleNotFoundError) and (extra := extra_of(found.name or "")) is not None:
        return UsageError(f"this needs the package {found.name!r}", hint=install_hint(extra))
    kept = _keep_traceback(found)
    hint = "report it with the command line" + ("" if kept is None else f" and {kept}")
    return InternalError(_one_line(f"unexpected {type(found).__name__}: {found}"), hint=hint)


def _keep_traceback(error: BaseException) -> Path | None:
    """The file that says where ``error`` was raised, beside the cache of this user; None where none can be written."""
    from spinal.cache import cache_folder

    try:
        path = cache_folder().with_name("traceback.txt")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text("".join(format_exception(error)), encoding="utf-8", errors="backslashreplace")
    except (OSError, RuntimeError):
        # No room, or no home: what went wrong is said all the same.
        return None
    return path


def _one_line(text: str) -> str:
    return " ".join(text.split())
