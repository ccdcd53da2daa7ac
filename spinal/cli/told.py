"""What a command says of an audit: the verdict with its reason, the rule that decided, the place, and a link."""

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from pydantic import BaseModel

from spinal.client import Client
from spinal.documents.comparison import Comparison, RuleOutcome, Statement, Verdict
from spinal.documents.trace import Trace
from spinal.errors import SpinalError
from spinal.report.content.first import in_a_few_lines

Part = TypeVar("Part", bound=BaseModel)


def audit_in_a_few_lines(client: Client, audit: Mapping[str, Any], server: str) -> tuple[str, ...]:
    """Lines for a log; where the scores cannot be had, what the audit itself says."""
    return (*_verdict(client, audit), _link(audit, server))


def report_of(client: Client, audit: Mapping[str, Any]) -> Comparison | Trace | None:
    """The report of an audit; None where it has none, or one that cannot be had or that this release cannot read."""
    if not audit["links"].get("report"):
        return None
    try:
        text = client.report(audit["id"], "json")
        return (Trace if audit.get("comparison") is None else Comparison).model_validate_json(text)
    except (SpinalError, ValueError):
        return None


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
    """To the page of a person; to what programs read, where the service is of a release without pages."""
    links = audit["links"]
    report, page = links.get("report"), links.get("page")
    if report is None:
        return f"Audit: {linked(server, page or links['self'])}"
    return f"Report: {linked(server, f'{page}/report' if page else report)}"


def linked(server: str, link: str) -> str:
    """The address that a link of an answer leads to. Services behind a path name it in their links; those of releases
    before did not, and are found below their address, as ever."""
    path = urlsplit(server).path.rstrip("/")
    if path and link.startswith(f"{path}/"):
        return urljoin(server, link)
    return f"{server.rstrip('/')}{link}"
