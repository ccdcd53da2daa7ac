"""Judgements as SARIF 2.1.0: one alert for each rule and model in every version, and of a training run one for each
signal and each checkpoint beyond a limit (``docs/pipelines.md`` ("SARIF"))."""

import json
import re
from typing import Any

from spinal.report.content.cases import LONGEST_NAME, Case, cases, identity, judgement, pair, place, plain_name, short
from spinal.report.formats.format import Reader, verdict_format
from spinal.report.reported import Judged
from spinal.text import visible_json
from spinal.version import VERSION

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"fail": "error", "inconclusive": "error", "warn": "warning", "pass": "note"}
"""What stops a pipeline is an error, and a verdict that could not be made stops one."""
HELP = {
    "comparison": (
        "The rule belongs to the policy that the verdict names; a waiver with a reason and a last day suppresses it. "
        "The report of the audit shows the values of every rule with their intervals."
    ),
    "series": (
        "The policy that the series names has the limit of one checkpoint and the least fall that counts. "
        "The report of the series shows every signal over the steps with its intervals."
    ),
}
"""What else there is to know of a rule, by the document that it is in."""
SEVERITIES = {"fail": "error", "warn": "warning", None: "warning"}


def render_sarif(document: Judged, reader: Reader) -> str:
    """Rules that found something are results; a waived one is a suppressed result; the rest are rules without one."""
    found, whole = cases(document), judgement(document)
    # Several cases may be of one rule, which stands in the list once.
    rules: dict[str, Case] = {}
    for one in found:
        rules.setdefault(_rule_id(one), one)
    index = {name: at for at, name in enumerate(rules)}
    told = [one for one in found if one.waived is not None or one.outcome != "pass"]
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "spinal",
                "fullName": "spinal, an audit of what alignment did inside a language model",
                "version": VERSION,
                "semanticVersion": VERSION,
                "informationUri": "urn:spinal:docs:pipelines",
                "rules": [_rule(one, whole.kind) for one in rules.values()],
            }
        },
        # A run of its own for each model: the next version replaces its alerts and nobody else's.
        "automationDetails": {"id": f"spinal/{plain_name(document)}/"},
        "columnKind": "unicodeCodePoints",
        "results": [_result(document, one, index[_rule_id(one)], reader) for one in told],
        "properties": {
            "verdict": whole.outcome,
            **({"status": whole.word, **whole.steps} if whole.word != whole.outcome or whole.steps else {}),
            "policy": short(whole.policy, LONGEST_NAME),
            whole.kind: whole.digest,
            "weights": dict(whole.weights),
            **({"links": {label: short(address) for label, address in reader.links.items()}} if reader.links else {}),
        },
    }
    return visible_json(json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)) + "\n"


def _rule_id(one: Case) -> str:
    return one.rule or one.name


def _rule(one: Case, kind: str) -> dict[str, Any]:
    name = _rule_id(one)
    asks = _sentence(one.asks or f"does the rule {name} of the policy find anything?")
    limit = f" The limit is {one.numbers['limit']}." if "limit" in one.numbers else ""
    help_text = f"{asks}{limit} {HELP[kind]}"
    return {
        "id": name,
        # A name that only repeats the id is to be left out.
        **({"name": readable} if (readable := _pascal(name)).lower() != name.lower() else {}),
        "shortDescription": {"text": asks},
        "fullDescription": {"text": f"{asks}{limit}"},
        "help": {"text": help_text, "markdown": _escaped(help_text)},
        "defaultConfiguration": {"level": SEVERITIES[one.severity]},
        "properties": {"precision": "high", "tags": ["model", "alignment"]},
    }


def _result(document: Judged, one: Case, index: int, reader: Reader) -> dict[str, Any]:
    found = identity(document, one)
    stops = one.worth == "warn" and reader.fail_on == "warn"
    made: dict[str, Any] = {
        "ruleId": _rule_id(one),
        "ruleIndex": index,
        "kind": "fail",
        "level": "error" if stops else LEVELS[one.worth],
        "message": {"text": f"{pair(document)}: {_ended(_told(one))}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": place(document)},
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
    # Of several cases of one rule, the message says which it is.
    told = f"{one.name}: {one.message}" if one.rule else one.message
    return f"not decided: {told}" if one.worth == "inconclusive" else told


def _sentence(text: str) -> str:
    return _ended(text[:1].upper() + text[1:])


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _pascal(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", name)) or "Rule"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", text)


SARIF = verdict_format("sarif", (".sarif", ".sarif.json"), "application/sarif+json", render_sarif)
