"""Whoever takes exception to a rule says why, and no test is left out without being named."""

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import HERE
from tests.support.places import ROOT

PARTS = ("spinal", "service", "worker", "devstack", "migrations", "benchmarks", "examples", "tools", "tests")
SUPPRESSION = re.compile(r"#\s*(?:type:\s*ignore|noqa|pragma:\s*no\s*cover)", re.IGNORECASE)
WITH_REASON = re.compile(r"# (?:type: ignore\[[a-z,-]+\]  # |noqa: [A-Z0-9]+(?:, [A-Z0-9]+)*  )(?!noqa)[^\W\d].*")
"""Which rule, two spaces, and why it does not hold here. mypy wants another # before its reason."""
SLEEPS = re.compile(r"\btime\.sleep\(|\bfrom time import\b.*\bsleep\b")
LEAVES_OUT = frozenset({"skip", "skipif", "xfail", "importorskip", "skipTest", "SkipTest"})


def files() -> Iterator[Path]:
    yield ROOT / "dev.py"
    for part in PARTS:
        yield from sorted((ROOT / part).rglob("*.py"))


def unexplained(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of the suppressions without a rule or without a reason."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        found = SUPPRESSION.search(token.string)
        if found and not WITH_REASON.fullmatch(token.string, found.start()):
            yield token.start[0], token.string


def left_out(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of whatever of pytest and unittest leaves a test out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and node.module in ("pytest", "unittest"):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name in LEAVES_OUT)


def slept(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of waits for a fixed time, in the code that a test hands to another process, too."""
    for number, line in enumerate(source.splitlines(), 1):
        if SLEEPS.search(line):
            yield number, line.strip()


def everywhere(find: Callable[[str], Iterator[tuple[int, str]]], paths: Iterator[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in paths
        for line, text in find(path.read_text(encoding="utf-8"))
    ]


def test_every_suppression_names_its_rule_and_its_reason() -> None:
    assert everywhere(unexplained, files()) == []


@pytest.mark.parametrize(
    ("comment", "stands"),
    [
        ("# noqa: S608  a constant of this module", True),
        ("# noqa: S608, E501  constants of this module", True),
        ("# type: ignore[arg-type]  # a path", True),
        ("# noqa: S608", False),
        ("# noqa: S608 a constant", False),
        ("# noqa: S608  ", False),
        ("# noqa", False),
        ("#noqa:S608", False),
        ("# NOQA", False),
        ("# type: ignore", False),
        ("#type:ignore[arg-type]", False),
        ("# type: ignore[arg-type]", False),
        ("# type: ignore  # a path", False),
        ("# type: ignore[arg-type]  # noqa: S608", False),
        ("# pragma: no cover", False),
    ],
)
def test_what_is_a_reason(comment: str, stands: bool) -> None:
    assert (not list(unexplained(f"x = 1  {comment}\n"))) is stands


def test_tests_are_left_out_in_one_place_alone() -> None:
    [place] = everywhere(left_out, (path for path in files() if path.is_relative_to(HERE)))
    assert re.fullmatch(r"tests/conftest\.py:\d+: skip", place)


@pytest.mark.parametrize(
    "source",
    [
        "import pytest\npytest.skip('x')",
        "import pytest\npytest.importorskip('x')",
        "import pytest\n@pytest.mark.xfail\ndef test(): ...",
        "import pytest\nonly = pytest.mark.skipif(True, reason='x')",
        "from pytest import skip",
        "from unittest import SkipTest",
        "import unittest\nraise unittest.SkipTest",
    ],
)
def test_what_leaves_a_test_out_is_noticed(source: str) -> None:
    assert len(list(left_out(source))) == 1


def test_tests_wait_for_conditions_and_for_no_fixed_time() -> None:
    [place] = everywhere(slept, (path for path in files() if path.is_relative_to(HERE)))
    assert place.startswith("tests/support/waiting.py:")


def run_without_history(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Tests that need the former release, in a checkout that has no history."""
    file = "tests/ledger/test_former_documents.py"
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "by_the_release_before", *arguments, file],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        | {"GIT_DIR": str(tmp_path / "nothing"), "COLUMNS": "500"},
    )  # fmt: skip


LOUD = "NOT TESTED, 2 tests: the former release in the history of this checkout is missing: clone it with its history, "


@pytest.mark.parametrize("lanes", ["0", "2"])
def test_without_history_the_summary_says_what_was_not_tested(tmp_path: Path, lanes: str) -> None:
    done = run_without_history(tmp_path, "-n", lanes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(LOUD) == 1, done.stdout


def test_without_history_a_run_of_all_tests_fails(tmp_path: Path) -> None:
    done = run_without_history(tmp_path, "--all", "-n", "0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert LOUD.partition(": ")[2] in done.stdout
    assert "NOT TESTED" not in done.stdout
