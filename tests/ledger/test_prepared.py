"""Every statement of the service and the worker can be prepared on a migrated database: it names no table, column or
function that is not there, whether or not a test comes by."""

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.orm import Session

from service.audits.store import CONDITIONS, listing
from service.operations.invariants import INVARIANTS
from service.series import store as series
from tests.conftest import ROOT

LOCALS = {
    "lock": "FOR NO KEY UPDATE SKIP LOCKED", "table": "audits", "missing": "TRUE", "where": "TRUE", "column": "id",
    "which": "SELECT id FROM runs",
}  # fmt: skip
"""What holes of statements are filled with that the module itself does not say."""


@dataclass(frozen=True)
class Statement:
    module: str
    line: int
    literal: ast.expr

    def sql(self) -> str:
        code = compile(ast.Expression(self.literal), self.module, "eval")
        return str(eval(code, vars(importlib.import_module(self.module)) | LOCALS))


def statements() -> Iterator[Statement]:
    """Literals and constants given to ``text()``."""
    for folder in ("service", "worker"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "text"):
                    continue
                named = isinstance(node.args[0], ast.Name) and node.args[0].id.isupper()
                if named or isinstance(node.args[0], ast.Constant | ast.JoinedStr):
                    yield Statement(_module(path), node.lineno, node.args[0])


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


DEFINITIONS = {
    f"service.database.{module}"
    for module in ("event_tables", "record", "model_tables", "run_tables", "series_tables", "tenant_tables", "tables")
}
STATEMENTS = [one for one in statements() if one.module not in DEFINITIONS]
"""Those of the tables are parts of definitions, which the migrations are tested for."""


def prepare(session: Session, sql: str) -> None:
    dialect = psycopg.PGDialect_psycopg(paramstyle="numeric_dollar")
    compiled = text(sql).compile(dialect=dialect)
    session.connection().exec_driver_sql(f"PREPARE tried AS {str(compiled).replace('%%', '%')}")
    session.connection().exec_driver_sql("DEALLOCATE tried")


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda one: f"{one.module}:{one.line}")
def test_a_statement_can_be_prepared(session: Session, statement: Statement) -> None:
    prepare(session, statement.sql())


@pytest.mark.parametrize("name", INVARIANTS)
def test_an_invariant_can_be_prepared(session: Session, name: str) -> None:
    query = INVARIANTS[name]
    prepare(session, query if isinstance(query, str) else query())


NARROWINGS = [
    by for size in range(len(CONDITIONS) + 2) for by in combinations((*CONDITIONS, "model"), size)
]  # fmt: skip


def test_a_list_of_audits_can_be_prepared_however_it_is_narrowed(session: Session) -> None:
    for by in NARROWINGS:
        prepare(session, listing(by))
    assert len(NARROWINGS) == 2**9


def test_a_list_of_series_can_be_prepared_however_it_is_narrowed(session: Session) -> None:
    for count in range(len(series.CONDITIONS) + 1):
        for by in combinations(series.CONDITIONS, count):
            prepare(session, series.listing(by))


def test_statements_are_found_where_they_stand() -> None:
    modules = {one.module for one in STATEMENTS}
    assert {"service.runs.transitions", "service.runs.settle", "service.traces.store"} <= modules
    assert len(STATEMENTS) > 50


def test_a_statement_that_names_no_column_is_found(session: Session) -> None:
    with pytest.raises(Exception, match='column "nowhere" does not exist'):
        prepare(session, "SELECT nowhere FROM runs WHERE id = :id")
