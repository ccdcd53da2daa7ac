"""Structured logs on stderr: JSON lines in production, readable lines on a terminal. Those of libraries, too."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from service.settings import Settings
from spinal.text import visible

QUIET = ("uvicorn.access",)
"""Said already: the API logs a line of its own for every request, with its ids."""


def configure_logs(settings: Settings) -> None:
    """Set up logging for this process; ids bound with ``structlog.contextvars`` appear on every line."""
    level = getattr(logging, settings.log_level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer = structlog.processors.JSONRenderer() if settings.log_format == "json" else _render_for_a_terminal
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(level, shared, renderer)


def _render_for_a_terminal(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
    """Readable lines that a terminal obeys in nothing: paths of requests and names in files stand in them."""
    rendered = structlog.dev.ConsoleRenderer(colors=False)(logger, name, event)
    return "\n".join(visible(line) for line in rendered.split("\n"))


def _configure_libraries(
    level: int, shared: list[structlog.typing.Processor], renderer: structlog.typing.Processor
) -> None:
    """Lines of uvicorn, Celery and others in the same form, from the same level on; never their debugging."""
    handler = _ToStderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    for known in [known for known in root.handlers if isinstance(known, _ToStderr)]:
        root.removeHandler(known)
    root.addHandler(handler)
    root.setLevel(max(level, logging.INFO))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name not in QUIET


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at that moment."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        pass
