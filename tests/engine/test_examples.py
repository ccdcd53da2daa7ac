"""Examples in the engine's docstrings are run, and say what comes out."""

import doctest
import importlib
import pkgutil

import pytest

import spinal.engine
from tests.conftest import ROOT

MODULES = sorted(module.name for module in pkgutil.iter_modules(spinal.engine.__path__))


def examples(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(f"spinal.engine.{name}")
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_are_true(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    runner = doctest.DocTestRunner()
    for test in examples(name):
        assert runner.run(test).failed == 0, test.name


def test_entry_points_have_an_example() -> None:
    shown = {test.name.rpartition(".")[2] for name in ("measure", "pair") for test in examples(name)}
    assert {"measure", "gather_evidence"} <= shown
