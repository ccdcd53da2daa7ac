"""Verdicts as SARIF 2.1.0: one alert for each rule and model in every version (``docs/pipelines.md`` ("SARIF"))."""

import json
import re
from typing import Any

from spinal.documents.comparison import Comparison
from spinal.report.content.cases import LONGEST_NAME, Case, cases, identity, pair, place, plain_name, short
from spinal.report.formats.format import Reader, verdict_format
from spinal.text import visible_json
from spinal.version import VERSION

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"fail": "error", "inconclusive": "error", "warn": "warning", "pass": "note"}
"""What stops a pipeline is an error, and a verdict that could not be made stops one."""
SEVERITIES = {"fail": "error", "warn": "warning", None: "warning"}


def render_sarif(result: Comparison, reader: Reader) -> str:
    """Rules that found something are results; a waived one is a suppressed result; the rest are rules without one."""
    found = cases(result)
    told = [(index, one) for index, one in enumerate(found) if one.waived is not None or one.outcome != "pass"]
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "spinal",
                "fullName": "spinal, an audit of what alignment did inside a language model",
                "version": VERSION,
                "semanticVersion": VERSION,
                "informationUri": "urn:spinal:docs:pipelines",
                "rules": [_rule(one) for one in found],
            }
        },
        # A run of its own for each model: the next version replaces its alerts and nobody else's.
        "automationDetails": {"id": f"spinal/{plain_name(result)}/"},
        "columnKind": "unicodeCodePoints",
        "results": [_result(result, one, index, reader) for index, one in told],
        "properties": {
            "verdict": result.verdict.outcome,
            "policy": short(result.verdict.policy, LONGEST_NAME),
            "comparison": result.digest,
            "weights": dict(result.verdict.weights),
            **({"links": {label: short(address) for label, address in reader.links.items()}} if reader.links else {}),
        },
    }
    return visible_json(json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)) + "\n"


def _rule(one: Case) -> dict[str, Any]:
    asks = _sentence(one.asks or f"does the rule {one.name} of the policy find anything?")
    limit = f" The limit is {one.numbers['limit']}." if "limit" in one.numbers else ""
    help_text = (
        f"{asks}{limit} The rule belongs to the policy that the verdict names; a waiver with a reason and a last day "
        "suppresses it. The report of the audit shows the values of every rule with their intervals."
    )
    return {
        "id": one.name,
        # A name that only repeats the id is to be left out.
        **({"name": readable} if (readable := _pascal(one.name)).lower() != one.name.lower() else {}),
        "shortDescription": {"text": asks},
        "fullDescription": {"text": f"{asks}{limit}"},
        "help": {"text": help_text, "markdown": _escaped(help_text)},
        "defaultConfiguration": {"level": SEVERITIES[one.severity]},
        "properties": {"precision": "high", "tags": ["model", "alignment"]},
    }


def _result(result: Comparison, one: Case, index: int, reader: Reader) -> dict[str, Any]:
    found = identity(result, one)
    stops = one.worth == "warn" and reader.fail_on == "warn"
    made: dict[str, Any] = {
        "ruleId": one.name,
        "ruleIndex": index,
        "kind": "fail",
        "level": "error" if stops else LEVELS[one.worth],
        "message": {"text": f"{pair(result)}: {_ended(_told(one))}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": place(result)},
                    "region": {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2},
                }
            }
        ],
        "partialFingerprints": {"primaryLocationLineHash": f"{found[:16]}:1", "spinal/v1": found},
        "properties": {"outcome": one.worth, **one.numbers},
    }
    if one.waived is not None:
        reason, expires, _ = one.waived
        made["suppressions"] = [
            {"kind": "external", "status": "accepted", "justification": f"{reason} (until {expires})"}
        ]
    return made


def _told(one: Case) -> str:
    return f"not decided: {one.message}" if one.worth == "inconclusive" else one.message


def _sentence(text: str) -> str:
    return _ended(text[:1].upper() + text[1:])


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _pascal(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", name)) or "Rule"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", text)


SARIF = verdict_format("sarif", (".sarif", ".sarif.json"), "application/sarif+json", render_sarif)
