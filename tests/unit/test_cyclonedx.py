"""Bills of materials: valid, with the hashes of files and not of manifests, and with every number and its interval."""

import json
import re
from typing import Any

import pytest

from spinal.documents.comparison import Comparison
from spinal.documents.files import FileDigests
from spinal.report.formats import FORMATS, format_of
from spinal.report.formats.format import ANYBODY, Reader
from spinal.report.reported import Reported
from tests.support.fabricated import changed_pair
from tests.support.fabricated_series import KINDS, series

MADE = FORMATS["cyclonedx"]
PAIR = changed_pair()
FOUND = PAIR.compare()
FILES = FileDigests(files={"config.json": "1" * 64, "model.safetensors": "2" * 64})
SHARDS = FileDigests(files={"a.safetensors": "1" * 64, "b.safetensors": "2" * 64})
DOCUMENTS: dict[str, tuple[Reported, Reader]] = {
    "comparison": (FOUND, ANYBODY),
    "files": (FOUND, Reader(files={"candidate": FILES}, links={"report": "https://audits.example/report"})),
    "shards": (FOUND, Reader(files={"candidate": SHARDS, "reference": FILES})),
    "trace": (PAIR.candidate, ANYBODY),
    **{f"series {kind}": (series(kind), ANYBODY) for kind in KINDS},
}


def bill(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(MADE.written(*DOCUMENTS[name]))
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_readers_need_is_there(name: str) -> None:
    """The rules of the official schema (1.6, strict), as far as what is written here may break them."""
    found = bill(name)
    assert (found["bomFormat"], found["specVersion"], found["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", found["serialNumber"])
    refs: list[str] = []

    def look(component: dict[str, Any]) -> None:
        assert component["type"] in ("machine-learning-model", "file")
        assert component["name"]
        refs.extend([component["bom-ref"]] if "bom-ref" in component else [])
        for each in component.get("hashes", ()):
            assert each["alg"] == "SHA-256"
            assert re.fullmatch(r"[0-9a-f]{64}", each["content"])
        for each in component.get("properties", ()):
            assert each.keys() == {"name", "value"}
            assert all(isinstance(value, str) for value in each.values())
        card = component.get("modelCard", {}).get("quantitativeAnalysis", {})
        for metric in card.get("performanceMetrics", ()):
            assert metric.keys() <= {"type", "value", "slice", "confidenceInterval"}
            float(metric["value"])
            assert metric.get("confidenceInterval", {}).keys() <= {"lowerBound", "upperBound"}
        for inner in (*component.get("components", ()), *component.get("pedigree", {}).get("ancestors", ())):
            look(inner)

    for component in (found["metadata"]["component"], *found["components"]):
        look(component)
    assert len(refs) == len(set(refs))


def test_the_numbers_are_those_of_the_document() -> None:
    model = bill("comparison")["metadata"]["component"]
    told = {one["type"]: one for one in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    for name, signal in FOUND.damage.signals.items():
        if signal.value is None:
            assert f"damage.{name}" not in told
            continue
        metric = told[f"damage.{name}"]
        assert float(metric["value"]) == pytest.approx(signal.value, rel=1e-3)
        assert ("confidenceInterval" in metric) == (signal.ci is not None)
    properties = {one["name"]: one["value"] for one in model["properties"]}
    assert properties["spinal:verdict"] == FOUND.verdict.outcome
    assert properties["spinal:weights_digest"] == FOUND.candidate.weights_digest


def test_hashes_are_of_files_and_never_of_what_is_none() -> None:
    assert "hashes" not in bill("comparison")["metadata"]["component"]
    one = bill("files")["metadata"]["component"]
    assert one["hashes"] == [{"alg": "SHA-256", "content": "2" * 64}]
    assert {part["name"]: part["hashes"][0]["content"] for part in one["components"]} == FILES.files
    many = bill("shards")["metadata"]["component"]
    assert "hashes" not in many
    assert {part["name"] for part in many["components"]} == set(SHARDS.files)
    [ancestor] = many["pedigree"]["ancestors"]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": "2" * 64}]


def test_its_ending_asks_for_it() -> None:
    assert format_of("bill.cdx.json") is MADE
    assert isinstance(FOUND, Comparison)
    assert MADE.files_of is not None
    assert MADE.files_of(FOUND).keys() == {"reference", "candidate"}
