"""Warnings of a training run: each kind once, as lines of the log."""

import logging

log = logging.getLogger("spinal.integrations")


class Telling:
    """Remembers what was said."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def once(self, kind: str, text: str) -> None:
        """A warning, unless one of this kind was given already."""
        if kind not in self._said:
            self._said.add(kind)
            log.warning("spinal: %s", text)

    def note(self, text: str) -> None:
        log.info("spinal: %s", text)
