"""``import spinal``: light, complete, typed; documents by their schema."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import spinal
from spinal.analysis.diff import diff_traces
from spinal.documents.schemas import SCHEMAS, load
from spinal.errors import DocumentInvalid, UsageError
from spinal.policy.shipped import default_policy
from spinal.profile import CompareKnobs, MeasurementProfile, TraceKnobs
from tests.conftest import ROOT
from tests.support.fabricated import changed_pair
from tests.support.fabricated_series import series


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)


def test_importing_the_package_brings_nothing_heavy() -> None:
    heavy = ("numpy", "pydantic", "httpx", "torch", "transformers", "pandas", "typer", "rich")
    done = run(f"import spinal, sys; print(sorted(set({heavy!r}) & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", ["trace", "compare", "judge", "load", "Client"])
def test_asking_for_a_name_brings_neither_torch_nor_the_service(name: str) -> None:
    heavy = ("torch", "transformers", "fastapi", "sqlalchemy", "celery", "pandas")
    done = run(f"import spinal, sys; spinal.{name}; print(sorted(set({heavy!r}) & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_is_there_with_a_docstring_and_an_example() -> None:
    assert set(spinal.__all__) <= set(dir(spinal))
    for name in sorted(set(spinal.__all__) - {"__version__"}):
        assert "Examples\n" in (getattr(spinal, name).__doc__ or ""), name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        spinal.nonsense  # noqa: B018  the access itself is what is tested


def test_the_version_is_that_of_the_package() -> None:
    assert spinal.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_knobs_as_keywords_are_the_fields_of_the_profile() -> None:
    knobs = set(MeasurementProfile.model_fields)
    assert set(CompareKnobs.__annotations__) | set(TraceKnobs.__annotations__) == knobs
    assert set(TraceKnobs.__annotations__) == knobs - MeasurementProfile.knobs("compare")


def test_every_document_is_read_back_by_the_schema_it_names(tmp_path: Path) -> None:
    pair = changed_pair()
    made = [pair.reference, pair.compare(), diff_traces(pair.reference, pair.candidate), default_policy(), series()]
    assert [type(one) for one in made] == list(SCHEMAS.values())
    for one in made:
        path = tmp_path / "document.json"
        path.write_text(one.model_dump_json())
        assert json.loads(path.read_text())["schema"] in SCHEMAS
        assert load(path) == one
        assert load(str(path)) == one


NAMES = ("spinal.trace/9", ["spinal.trace/1"], "spinal.trace/1", None)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", "\ufeff{}", *(json.dumps({"schema": name}) for name in NAMES)])
def test_what_is_no_document_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "document.json"
    path.write_text(text)
    with pytest.raises(DocumentInvalid):
        load(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load(tmp_path / "none.json")
    with pytest.raises(UsageError):
        load(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DocumentInvalid):
        load(tmp_path / "binary.json")


def test_measuring_alone_needs_neither_service_nor_broker_nor_database() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {requirement.split(">")[0].split("[")[0] for requirement in extras["local"]}
    assert named == {"torch", "transformers", "peft", "accelerate"}
    assert extras["worker"] == ["spinal[dispatcher,local]"]
    assert "spinal[service]" in extras["dispatcher"]
