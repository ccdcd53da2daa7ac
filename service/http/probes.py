"""Requests of supervisors, every few seconds: neither logged nor traced, but for the first that fails and the first
that succeeds again."""

from typing import Any

import structlog

from service.platform.links import told_path

log = structlog.get_logger(__name__)
PROBES = frozenset({"/livez", "/readyz"})


def is_probe(path: str, prefix: str = "") -> bool:
    return path.removeprefix(prefix) in PROBES


def is_untraced_in(prefix: str) -> Any:
    """Whether the request of a scope is a probe, or opens a link, which is a secret, where a proxy may have left
    ``prefix`` on its path."""
    return lambda scope: (
        scope["type"] == "http"
        and (is_probe(scope["path"], prefix) or told_path(path := scope["path"].removeprefix(prefix)) != path)
    )


class ProbeLog:
    """What each probe was answered last, by this process."""

    def __init__(self) -> None:
        self._failures: dict[str, str | None] = {}

    def answered(self, path: str, status: int, failure: str | None) -> None:
        """Tell, where it is something else than the last time, that the probe of ``path`` fails or succeeds again."""
        now = (failure or str(status)) if status >= 400 else None
        if now == self._failures.get(path):
            return
        self._failures[path] = now
        if now is None:
            log.info("probe succeeds again", path=path)
        else:
            log.error("probe fails", path=path, status=status, failure=now)
