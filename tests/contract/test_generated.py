"""Committed documents say what the code says, and other programs can use the contract."""

import yaml

from service.contract import ROOT, documents, main
from spinal.errors import SpinalError, all_errors


def test_committed_documents_are_those_the_code_makes() -> None:
    assert main(["--check"]) == 0
    for path, made in documents().items():
        assert path.read_text(encoding="utf-8") == made, path


def test_every_operation_has_an_id_and_documents_its_errors() -> None:
    contract = yaml.safe_load((ROOT / "openapi.yaml").read_text())
    assert contract["openapi"].startswith("3.1")
    seen = set()
    for path, operations in contract["paths"].items():
        for method, operation in operations.items():
            seen.add(operation["operationId"])
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert "application/problem+json" in answer["content"], (method, path, status)
            if path.startswith("/v1"):
                # Registries sign what they send: they have no key, and so no scopes.
                signed = operation.get("security") == []
                expected = {"401", "503"} if signed else {"401", "403", "503"}
                assert expected <= set(operation["responses"]), (method, path)
    assert {
        "submitAudit",
        "getAudit",
        "listAudits",
        "cancelAudit",
        "getScores",
        "getReport",
        "getTrace",
        "getDiff",
    } <= seen


def test_error_codes_are_unique_and_well_formed() -> None:
    pending, codes = list(SpinalError.__subclasses__()), []
    while pending:
        error = pending.pop()
        codes.append(error.code)
        pending.extend(error.__subclasses__())
    assert len(codes) == len(set(codes)) == len(all_errors())
    assert all(code.replace("_", "").isalpha() and code.islower() for code in codes)
