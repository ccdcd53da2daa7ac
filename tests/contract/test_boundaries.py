"""Who may touch what: import contracts, the torch-free API, one place for settings and one for commits."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("spinal", "service", "worker", "devstack")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
READS_ENVIRONMENT = {
    "service/settings.py",
    "devstack/stack.py",
    "devstack/mlflow.py",
    "worker/gpus.py",
    "spinal/checkpoints/bounded.py",
    "spinal/cache/environment.py",
    "spinal/cli/pipeline.py",
}
"""The stack and its registry hand their children an environment; settings read it; a worker child hides GPUs; an
inspecting child gets a stated part; the cache asks where a user's caches lie, the command line what the pipeline says
of itself. Nothing else does."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT)


def test_import_contracts_hold() -> None:
    done = run("-c", "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "service.app",
        "service.operations.migrate",
        "service.keys.commands",
        "service.operations.commands",
        "worker.celery_app",
        "worker.dispatcher",
        "worker.tasks",
        "spinal",
        "spinal.audit",
        "spinal.client",
        "spinal.integrations",
        "spinal.local",
        "spinal.local_series",
        "spinal.cache",
        "spinal.report",
        "spinal.cli.main",
    ],
)
def test_importing_brings_no_torch_and_opens_nothing(module: str) -> None:
    watched = (
        "import sys, socket, threading\n"
        "def refuse(*a, **k): raise AssertionError('a connection at import time')\n"
        "socket.socket.connect = refuse\n"
        f"import {module}\n"
        "bad = sorted({'torch', 'transformers', 'peft'} & set(sys.modules))\n"
        "assert not bad, bad\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    done = run("-c", watched)
    assert done.returncode == 0, done.stderr


def _attributes(tree: ast.AST) -> set[str]:
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }


def test_only_settings_read_the_environment() -> None:
    readers = set()
    for path in SOURCES:
        if _attributes(ast.parse(path.read_text())) & {"os.environ", "os.getenv", "os.environb"}:
            readers.add(path.relative_to(ROOT).as_posix())
    assert readers <= READS_ENVIRONMENT


def test_only_the_unit_of_work_commits() -> None:
    callers = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "commit"
    }
    assert callers == {"service/database/unit_of_work.py"}


def test_modules_and_functions_stay_small() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert len(text.splitlines()) <= 420, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno <= 75, f"{path}:{node.lineno} {node.name}"


ENTRY_POINTS = {"measure", "gather_evidence", "gather_accounts", "check_same_ids"}
"""The engine's own, called with keywords."""


def test_no_function_of_the_engine_takes_a_bundle_apart() -> None:
    """What travels together is one value (``spinal/engine/session.py``)."""
    for path in sorted((ROOT / "spinal" / "engine").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name not in ENTRY_POINTS:
                taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                assert len(taken) <= 7, f"{path.name}: {node.name} takes {len(taken)} parameters"


def test_every_module_says_what_it_is_for() -> None:
    assert [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))] == []
