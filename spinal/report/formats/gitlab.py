"""Judgements as the reports that GitLab shows beside a job and a merge request (``docs/pipelines.md`` ("GitLab"))."""

import json
from typing import Any, get_args

from spinal.documents.comparison import WORST_FIRST, Comparison
from spinal.documents.series import STATUSES, MemberState, Series
from spinal.errors import UsageError
from spinal.report.content.cases import (
    cases,
    figure,
    identity,
    judgement,
    model_name,
    pair,
    place,
    short,
    subject,
    worst_first,
)
from spinal.report.content.series.cases import last_measured
from spinal.report.formats.format import Reader, verdict_format
from spinal.report.reported import Judged
from spinal.text import visible, visible_json

LONGEST_LABEL = 255
MOST_LINKS = 20
SEVERITIES = {"fail": "critical", "inconclusive": "critical", "warn": "minor", "pass": "info"}


def render_annotations(document: Judged, reader: Reader) -> str:
    """Links beside the job: the verdict and every finding, each to the report. Raises UsageError without a link."""
    if not reader.links:
        raise UsageError(
            "gitlab-annotations is a list of links, and there is no address to link to",
            hint="write it in a GitLab job, or from an audit of a server",
        )
    found = cases(document)
    # What leads to one of the cases stands with it, and the first of the others leads to the whole.
    named = {one.name for one in found}
    general = {label: address for label, address in reader.links.items() if label not in named}
    first = next(iter((general or reader.links).values()))
    told = [
        (
            f"{one.worth}{' (waived)' if one.waived else ''}: {one.name}: {one.message}",
            reader.links.get(one.name, first),
        )
        for one in worst_first(found)
    ]
    lines = [(f"{judgement(document).word}: {pair(document)}", first), *told[:MOST_LINKS]]
    sections = {
        "spinal": [_link(label, address) for label, address in (general or {"report": first}).items()],
        "spinal verdict": [_link(line, address) for line, address in lines],
    }
    return visible_json(json.dumps(sections, indent=2)) + "\n"


def render_metrics(document: Judged, _: Reader) -> str:
    """OpenMetrics: the outcome, each rule's value with its interval and limit, and every signal of damage; of a
    training run its status, the steps that it is asked for, and every signal at its last checkpoint."""
    lines = _of_run(document) if isinstance(document, Series) else _of_pair(document)
    return "\n".join([*lines, "# EOF", ""])


def _of_pair(result: Comparison) -> list[str]:
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
    return lines + _family(
        "spinal_damage", "gauge", [(model | {"signal": name}, value) for name, value in signals.items()]
    )


def _of_run(series: Series) -> list[str]:
    model = {"model": short(model_name(subject(series)), LONGEST_LABEL)}
    said = [(model | {"spinal_series_status": one}, float(one == series.status)) for one in STATUSES]
    states = [member.state for member in series.members]
    counts = [(model | {"state": one}, float(states.count(one))) for one in get_args(MemberState)]
    lines = _family("spinal_series_status", "stateset", said) + _family("spinal_series_members", "gauge", counts)
    for name, step in judgement(series).steps.items():
        lines += _family(f"spinal_series_{name}", "gauge", [(model, float(step))])
    samples: dict[str, list[tuple[dict[str, str], float]]] = {kind: [] for kind in SIGNAL_KINDS}
    for key, signal in series.signals.items():
        last = last_measured(signal)
        if last is None:
            continue
        ends = last.ci or (None, None)
        # A series is named by the signal alone: the category that is worst may be another one next time.
        labels = model | {"signal": short(key, LONGEST_LABEL), "unit": short(signal.unit, LONGEST_LABEL)}
        found = (float(last.step), last.value, *ends, last.fall, last.distance, signal.threshold, signal.limit)
        for kind, value in zip(SIGNAL_KINDS, found, strict=True):
            if value is not None:
                samples[kind].append((labels, value))
    for kind, told in samples.items():
        lines += _family(f"spinal_series_signal_{kind}", "gauge", told)
    return lines


SIGNAL_KINDS = ("step", "value", "low", "high", "fall", "distance", "threshold", "limit")


HELP = {
    "spinal_verdict": "What the policy makes of the pair.",
    "spinal_rules": "Rules by what they found.",
    "spinal_rule_value": "What a rule of the policy looked at.",
    "spinal_rule_low": "Lower end of its interval.",
    "spinal_rule_high": "Upper end of its interval.",
    "spinal_rule_limit": "Its limit.",
    "spinal_damage": "Signals of damage.",
    "spinal_series_status": "What the policy makes of the training run.",
    "spinal_series_members": "Checkpoints by state.",
    "spinal_series_onset_step": "The last step at which all was well.",
    "spinal_series_worse_from_step": "The first step that is worse beyond doubt and by as much as counts.",
    "spinal_series_first_alarm_step": "The first step at which damage was known.",
    "spinal_series_first_warning_step": "The first step at which early warning was known.",
    "spinal_series_signal_step": "The last step at which a signal was measured.",
    "spinal_series_signal_value": "A signal there.",
    "spinal_series_signal_low": "Lower end of its interval.",
    "spinal_series_signal_high": "Upper end of its interval.",
    "spinal_series_signal_fall": "How much worse it is than at its best.",
    "spinal_series_signal_distance": "The same in standard errors of a difference.",
    "spinal_series_signal_threshold": "What the distance has to exceed twice.",
    "spinal_series_signal_limit": "The limit of its value at any one checkpoint.",
}


def render_codequality(document: Judged, reader: Reader) -> str:
    """Findings as GitLab's code quality: a list with a fingerprint for each rule and model. Waived ones are told as
    information."""
    issues = [
        {
            "description": f"{pair(document)}: {one.message}"
            + (f" (waived until {one.waived[1]}: {one.waived[0]})" if one.waived else ""),
            "check_name": one.name,
            "fingerprint": identity(document, one),
            "severity": "info" if one.waived else "critical" if one.fails(reader.fail_on) else SEVERITIES[one.outcome],
            "location": {"path": place(document), "lines": {"begin": 1}},
        }
        for one in worst_first(cases(document))
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
