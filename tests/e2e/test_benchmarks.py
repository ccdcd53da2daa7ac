"""Benchmarks run in the environment of ``python3 dev.py demo``, which holds nothing that only tests need."""

import subprocess
import sys

from tests.support.places import ROOT

ONLY_FOR_TESTS = ("pytest", "hypothesis", "scipy", "mpmath", "schemathesis", "xdist", "pandas")
WITHOUT = """
import builtins, importlib, pkgutil, sys

absent, ours, usual = set(sys.argv[1:]), {"benchmarks", "tests", "spinal", "service", "worker", "devstack"}, __import__

def without(name, globals=None, *more, **named):
    # Libraries may know more than is asked here: what they import if it is there is their own affair.
    asks = (globals or {}).get("__name__", "").partition(".")[0]
    if asks in ours and name.partition(".")[0] in absent:
        raise ModuleNotFoundError(f"{globals['__name__']} imports {name}", name=name)
    return usual(name, globals, *more, **named)

builtins.__import__ = without
import benchmarks
names = sorted(found.name for found in pkgutil.iter_modules(benchmarks.__path__))
for name in names:
    importlib.import_module(f"benchmarks.{name}")
print(*names)
"""


def test_every_benchmark_can_be_imported_without_what_only_tests_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *ONLY_FOR_TESTS], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert {"chaos", "damage", "localization"} <= set(done.stdout.split())
