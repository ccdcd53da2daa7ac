"""What is mutated and which tests should notice: the one place to change when modules move."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """``sources`` and ``tests`` are globs below the root of the repository."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]
    not_sources: tuple[str, ...] = ()
    not_tests: tuple[str, ...] = ()
    nearest: tuple[tuple[str, str], ...] = ()
    """Globs of sources and of the tests that are about them, which go first."""
    database: bool = False
    """Whether the tests need a Postgres: one is started for all mutants."""


TARGETS = {
    "analysis": Target(
        sources=("spinal/analysis/**/*.py",),
        tests=("tests/unit/analysis/test_*.py", "tests/property/test_*.py"),
        # Simulations that take seconds; they ask for statistics, and the rest for the formulas.
        not_tests=("tests/unit/analysis/test_coverage.py",),
    ),
    "policy": Target(
        sources=("spinal/policy/*.py", "spinal/policy/kinds/*.py", "spinal/policy/values/*.py"),
        tests=("tests/unit/analysis/test_*.py", "tests/unit/test_policy.py", "tests/unit/policy/test_*.py"),
        not_tests=("tests/unit/analysis/test_coverage.py",),
    ),
    "checkpoints": Target(
        sources=("spinal/checkpoints/**/*.py",),
        tests=("tests/unit/test_*.py",),
    ),
    "statements": Target(
        sources=(
            "service/runs/*.py",
            "service/audits/store.py",
            "service/audits/idempotency.py",
            "service/models/store.py",
            "service/prompt_sets/store.py",
            "service/traces/store.py",
            "service/keys/store.py",
            "service/operations/invariants.py",
            "service/operations/retained.py",
            "service/traces/snapshots.py",
        ),
        # The schema is the migrations' (``tests/ledger/test_migrations.py``); connections are tested by breaking them
        # (``tests/chaos``).
        not_sources=("*/tables.py", "*/connection.py", "*/unit_of_work.py", "*/ids.py", "*/__init__.py"),
        tests=("tests/ledger/test_*.py",),
        # Long random runs: what they find by chance the others should find every time.
        not_tests=(
            "tests/ledger/test_stateful.py",
            "tests/ledger/test_lock_order.py",
            "tests/ledger/test_migrations.py",
        ),
        nearest=(
            ("service/operations/invariants.py", "tests/ledger/test_invariant*.py"),
            ("service/*/store.py", "tests/ledger/test_store_statements.py"),
            ("service/audits/*.py", "tests/ledger/test_store_statements.py"),
            ("service/operations/retained.py", "tests/ledger/test_store_statements.py"),
            ("service/runs/demand.py", "tests/ledger/test_store_statements.py"),
            ("service/runs/settle.py", "tests/ledger/test_settle_statements.py"),
            ("service/runs/*.py", "tests/ledger/test_run_statements.py"),
        ),
        database=True,
    ),
}
