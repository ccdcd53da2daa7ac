"""How a command ends that did not come to its end."""

from collections.abc import Callable

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
    """An error that is not ours, as one that can be shown: its cause in one line."""
    # Of the command line's parser; its classes have no public name that all versions of it share.
    format_message: Callable[[], str] | None = getattr(error, "format_message", None)
    if format_message is not None:
        place = getattr(getattr(error, "ctx", None), "command_path", "spinal")
        return UsageError(_one_line(format_message()), hint=f"{place} --help")
    # The parser answers with Abort where a command ends in EOFError, which may be that of a damaged file.
    found = (error.__cause__ or error) if isinstance(error, typer.Abort) else error
    if isinstance(found, ModuleNotFoundError) and (extra := extra_of(found.name or "")) is not None:
        return UsageError(f"this needs the package {found.name!r}", hint=install_hint(extra))
    return InternalError(
        _one_line(f"unexpected {type(found).__name__}: {found}"), hint="report it with the command line"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
