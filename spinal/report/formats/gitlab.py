"""Verdicts as the reports that GitLab shows beside a job and a merge request (``docs/pipelines.md`` ("GitLab"))."""

import json
from typing import Any

from spinal.documents.comparison import WORST_FIRST, Comparison
from spinal.errors import UsageError
from spinal.report.content.cases import (
    cases,
    figure,
    identity,
    model_name,
    pair,
    place,
    short,
    worst_first,
)
from spinal.report.formats.format import Reader, verdict_format
from spinal.text import visible, visible_json

LONGEST_LABEL = 255
MOST_LINKS = 20
SEVERITIES = {"fail": "critical", "inconclusive": "critical", "warn": "minor", "pass": "info"}


def render_annotations(result: Comparison, reader: Reader) -> str:
    """Links beside the job: the verdict and every finding, each to the report. Raises UsageError without a link."""
    if not reader.links:
        raise UsageError(
            "gitlab-annotations is a list of links, and there is no address to link to",
            hint="write it in a GitLab job, or from an audit of a server",
        )
    first = next(iter(reader.links.values()))
    verdict = result.verdict
    told = [
        f"{one.worth}{' (waived)' if one.waived else ''}: {one.name}: {one.message}"
        for one in worst_first(cases(result))
    ]
    lines = [f"{verdict.outcome}: {pair(result)}", *told[:MOST_LINKS]]
    sections = {
        "spinal": [_link(label, address) for label, address in reader.links.items()],
        "spinal verdict": [_link(line, first) for line in lines],
    }
    return visible_json(json.dumps(sections, indent=2)) + "\n"


def render_metrics(result: Comparison, _: Reader) -> str:
    """OpenMetrics: the outcome, each rule's value with its interval and limit, and every signal of damage."""
    found = cases(result)
    # Two models in one pipeline are two series, and a model is the same one in every version.
    model = {"model": short(model_name(result.candidate.source), LONGEST_LABEL)}
    outcomes = [(model | {"spinal_verdict": one}, float(one == result.verdict.outcome)) for one in WORST_FIRST]
    counts = [(model | {"outcome": one}, float(sum(case.outcome == one for case in found))) for one in WORST_FIRST]
    lines = _family("spinal_verdict", "stateset", outcomes) + _family("spinal_rules", "gauge", counts)
    for kind in ("value", "low", "high", "limit"):
        samples = [(model | dict(labels), value) for labels, value in _of_rules(result, kind).items()]
        lines += _family(f"spinal_rule_{kind}", "gauge", samples)
    signals = {
        short(name, LONGEST_LABEL): signal.value
        for name, signal in result.damage.signals.items()
        if signal.value is not None
    }
    lines += _family("spinal_damage", "gauge", [(model | {"signal": name}, value) for name, value in signals.items()])
    return "\n".join([*lines, "# EOF", ""])


HELP = {
    "spinal_verdict": "What the policy makes of the pair.",
    "spinal_rules": "Rules by what they found.",
    "spinal_rule_value": "What a rule of the policy looked at.",
    "spinal_rule_low": "Lower end of its interval.",
    "spinal_rule_high": "Upper end of its interval.",
    "spinal_rule_limit": "Its limit.",
    "spinal_damage": "Signals of damage.",
}


def render_codequality(result: Comparison, reader: Reader) -> str:
    """Findings as GitLab's code quality: a list with a fingerprint for each rule and model. Waived ones are told as
    information."""
    issues = [
        {
            "description": f"{pair(result)}: {one.message}"
            + (f" (waived until {one.waived[1]}: {one.waived[0]})" if one.waived else ""),
            "check_name": one.name,
            "fingerprint": identity(result, one),
            "severity": "info" if one.waived else "critical" if one.fails(reader.fail_on) else SEVERITIES[one.outcome],
            "location": {"path": place(result), "lines": {"begin": 1}},
        }
        for one in worst_first(cases(result))
    ]
    return visible_json(json.dumps(issues, indent=2)) + "\n"


def _link(label: str, address: str) -> dict[str, Any]:
    return {"external_link": {"label": short(label, LONGEST_LABEL), "url": address}}


def _of_rules(result: Comparison, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    found: dict[tuple[tuple[str, str], ...], float] = {}
    for rule in result.verdict.rules:
        ends = rule.ci or (None, None)
        value = {"value": rule.value, "low": ends[0], "high": ends[1], "limit": rule.limit}[name]
        if value is not None:
            # A series is named by the rule alone: the category that is worst may be another one next time.
            found[("rule", short(rule.rule, LONGEST_LABEL)), ("unit", short(rule.unit, LONGEST_LABEL))] = value
    return found


def _family(name: str, kind: str, samples: list[tuple[dict[str, str], float]]) -> list[str]:
    head = [f"# TYPE {name} {kind}", f"# HELP {name} {HELP[name]}"]
    return [*head, *(_sample(name, labels, value) for labels, value in samples)] if samples else []


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    # GitLab reads a label only up to a closing brace.
    told = ",".join(f'{label}="{_quoted(text)}"' for label, text in labels.items() if text)
    return f"{name}{{{told}}} {figure(value)}"


def _quoted(text: str) -> str:
    return visible(text).replace("\\", r"\\").replace('"', r"\"").replace("{", "(").replace("}", ")")


ANNOTATIONS = verdict_format("gitlab-annotations", (), "application/json", render_annotations, needs_link=True)
METRICS = verdict_format(
    "gitlab-metrics", (".prom",), "application/openmetrics-text; version=1.0.0; charset=utf-8", render_metrics
)
CODEQUALITY = verdict_format("gitlab-codequality", (), "application/json", render_codequality)
