"""What a command says of an audit: the verdict with its reason, the rule that decided, the place, and a link."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from spinal.client import Client
from spinal.documents.comparison import RuleOutcome, Statement, Verdict
from spinal.errors import SpinalError
from spinal.report.content.first import in_a_few_lines

Part = TypeVar("Part", bound=BaseModel)


def audit_in_a_few_lines(client: Client, audit: Mapping[str, Any], server: str) -> tuple[str, ...]:
    """Lines for a log; where the scores cannot be had, what the audit itself says."""
    return (*_verdict(client, audit), _link(audit, server))


def _verdict(client: Client, audit: Mapping[str, Any]) -> tuple[str, ...]:
    if audit["verdict"] is None:
        return (f"{audit['state']}: audit {audit['id']} of {audit['candidate']}",)
    try:
        scores = client.scores(audit["id"])
        said = [_part(Statement, one) for one in scores.get("statements", ())]
        return in_a_few_lines(_verdict_of(scores["verdict"]), said)
    except (SpinalError, ValueError, KeyError, TypeError, AttributeError):
        # A verdict is not withheld since a detail cannot be had, or reads differently in another release.
        why = audit["verdict_reasons"]
        return (f"{audit['verdict'].upper()}: {why[0] if why else ''}".rstrip(": "),)


def _verdict_of(given: Mapping[str, Any]) -> Verdict:
    rules = [_part(RuleOutcome, one) for one in given.get("rules", ())]
    return _part(Verdict, {**given, "rules": rules})


def _part(kind: type[Part], given: Mapping[str, Any]) -> Part:
    """``given`` as this release knows it: a later one may have added members."""
    return kind.model_validate({name: given[name] for name in kind.model_fields if name in given})


def _link(audit: Mapping[str, Any], server: str) -> str:
    links = audit["links"]
    name = "Report" if links.get("report") else "Audit"
    return f"{name}: {server.rstrip('/')}{links.get('report') or links['self']}"
