"""A pytest plugin that writes down how long each test takes and which functions it reaches."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

OUT = "MUTANTS_REACH"
"""Variable of the environment: the file to write."""
FILES = "MUTANTS_FILES"
"""Variable of the environment: the files whose functions are of interest, one a line."""


class Reach:
    """Tests -> seconds and functions (``file::function``)."""

    def __init__(self, root: Path, files: list[str]) -> None:
        self._files = {str(root / file): file for file in files}
        self._known: dict[CodeType, str | None] = {}
        self._current: set[str] = set()
        self.tests: dict[str, dict[str, Any]] = {}

    def see(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code not in self._known:
            file = self._files.get(code.co_filename)
            self._known[code] = file and f"{file}::{code.co_qualname.split('.<locals>')[0]}"
        if name := self._known[code]:
            self._current.add(name)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._current, started = set(), time.monotonic()
        threading.setprofile(self.see)
        sys.setprofile(self.see)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        self.tests[item.nodeid] = {"seconds": time.monotonic() - started, "reached": sorted(self._current)}

    def pytest_sessionfinish(self) -> None:
        Path(os.environ[OUT]).write_text(json.dumps(self.tests))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reach(config.rootpath, os.environ[FILES].split("\n")))
