"""Runs tests against mutants in a copy of the tree; the checkout itself is never touched."""

import contextlib
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.mutation.mutants import MODULE, Mutant
from tools.mutation.targets import Target

ROOT = Path(__file__).resolve().parents[2]
FIRST = 8
"""Where no tests are named as nearest, so many of the quickest that reach a mutant go first: they kill most, and
collecting the others takes time."""
SLACK_S = 20.0


class BaselineFailed(Exception):
    """The tests fail without any mutant; the text is the end of what pytest printed."""


@dataclass(frozen=True)
class Tests:
    """Seconds of each test, and the tests that reach a function or a file, quickest first."""

    seconds: dict[str, float]
    reached: dict[str, list[str]]
    nearest: tuple[tuple[str, str], ...] = ()

    def split(self, mutant: Mutant) -> tuple[list[str], list[str]]:
        """Tests that go first, since they are about the mutated file or else the quickest, and those that go next."""
        chosen = self.for_mutant(mutant)
        about = next((tests for source, tests in self.nearest if fnmatch.fnmatch(mutant.file, source)), None)
        near = [test for test in chosen if about and fnmatch.fnmatch(test.split("::")[0], about)]
        first = near or chosen[:FIRST]
        return first, [test for test in chosen if test not in set(first)]

    def for_mutant(self, mutant: Mutant) -> list[str]:
        """The tests that could notice. What stands outside of functions may act on any test."""
        if mutant.where != MODULE:
            return self.reached.get(f"{mutant.file}::{mutant.where}", [])
        near = self.reached.get(mutant.file, [])
        return [*near, *sorted(set(self.seconds) - set(near), key=lambda test: self.seconds[test])]


def files_of(patterns: tuple[str, ...], without: tuple[str, ...] = ()) -> list[str]:
    """Files of the checkout that match, in order of name."""
    found = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(str(path) for path in found if not any(path.match(pattern) for pattern in without))


class Tree:
    """A copy of the working tree, and a process in it that runs pytest."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.root = folder / "tree"
        self._output = folder / "output"
        self._environment = environment
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tools.mutation.server"],
            cwd=self.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def close(self) -> None:
        self._server.kill()
        self._server.wait()

    def pytest(self, arguments: list[str], limit_s: float, **environment: str) -> int | None:
        """Exit status of pytest; None where time ran out."""
        job = {
            "arguments": ["-q", "-p", "no:cacheprovider", *arguments],
            "limit_s": limit_s,
            "environment": self._environment | environment,
            "output": str(self._output),
        }
        if self._server.stdin is None or self._server.stdout is None:
            raise RuntimeError("the server has no streams")
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        code: int | None = answer["code"]
        return code

    def said(self) -> str:
        """The end of what the last pytest printed."""
        return self._output.read_text(errors="replace")[-4000:]

    def baseline(self, target: Target) -> Tests:
        """Run every test of the target on the code as it is; raises BaselineFailed."""
        sources = files_of(target.sources, target.not_sources)
        out = self.root / "reach.json"
        code = self.pytest(
            ["-p", "tools.mutation.reach", *files_of(target.tests, target.not_tests)],
            3600.0,
            MUTANTS_REACH=str(out),
            MUTANTS_FILES="\n".join(sources),
        )
        if code != 0:
            raise BaselineFailed(self.said())
        found: dict[str, dict[str, Any]] = json.loads(out.read_text())
        seconds = {test: one["seconds"] for test, one in found.items()}
        reached: dict[str, list[str]] = {}
        for test in sorted(found, key=lambda test: seconds[test]):
            names = found[test]["reached"]
            for name in {*names, *(name.split("::")[0] for name in names)}:
                reached.setdefault(name, []).append(test)
        return Tests(seconds, reached, target.nearest)

    def outcome(self, mutant: Mutant, tests: Tests) -> str:
        """``killed``, ``timed out``, ``survived``, or ``unreached`` where no test comes by."""
        first, then = tests.split(mutant)
        if not first:
            return "unreached"
        with self._mutated(mutant):
            for some in (first, then):
                if not some:
                    continue
                limit_s = SLACK_S + 3 * sum(tests.seconds[test] for test in some)
                code = self.pytest(["-x", *some], limit_s)
                if code != 0:
                    return "timed out" if code is None else "killed"
        return "survived"

    @contextlib.contextmanager
    def _mutated(self, mutant: Mutant) -> Iterator[None]:
        path = self.root / mutant.file
        before = path.read_text(encoding="utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
        path.write_text(mutant.text, encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(before, encoding="utf-8")


@contextlib.contextmanager
def tree(environment: dict[str, str]) -> Iterator[Tree]:
    """A Tree in a temporary folder, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="spinal-mutants-", ignore_cleanup_errors=True) as folder:
        made = Tree(Path(folder), environment)
        try:
            yield made
        finally:
            made.close()
