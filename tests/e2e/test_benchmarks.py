"""Benchmarks run in the environment of ``python3 dev.py demo``, which holds nothing that only tests need."""

import subprocess
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import chaos
from tests.support.fleet import SHORT_TIMINGS
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


def test_a_short_run_of_the_long_one_holds_its_bars(tmp_path: Path) -> None:
    """Two workers, a store that goes away and disks that fill up (for root) under processes that are frozen and killed:
    whatever the long run does, once."""
    given = (
        "--minutes 0.2 --backlog 24 --small 1 --every 1.5 --workers 1 --pace 0.4 --store-away 4 --full-disk 3 "
        "--fault-every 1 --only freeze_child kill_child crash_engine cut_database_connections "
        f"--lease {SHORT_TIMINGS['SPINAL_LEASE_S']}"
    )
    arguments = chaos.parser().parse_args(given.split())
    # Stores and disks are looked at again soon, as everything is.
    arguments.settings = SHORT_TIMINGS | {"SPINAL_ARTIFACT_CHECK_S": "0.5"}
    verdict = chaos.run(arguments, tmp_path, Console(quiet=True))
    # On a machine that does other work no run may be at work just then, and processes take long to start.
    machine = ("nothing can be said", "recovery p99")
    assert [missed for missed in chaos.missed_bars(verdict) if not any(each in missed for each in machine)] == []
    assert verdict["faults"]
    assert verdict["outages, seconds"]["store away"] >= 4
    assert verdict["measurements by tenant"].keys() == {"flood", "small-1"}
