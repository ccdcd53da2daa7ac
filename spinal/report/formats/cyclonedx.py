"""Documents as an ML-BOM of CycloneDX 1.6: the candidate as a component with its files, and what was measured of it as
the metrics of its model card (``docs/attestations.md`` ("Bills of materials")).

References: ECMA-424, CycloneDX 1.6.
"""

import json
from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from spinal.documents.comparison import Comparison, DamageSignal, RuleOutcome, Side, Verdict
from spinal.documents.files import FileDigests
from spinal.documents.series import Series
from spinal.documents.trace import Trace
from spinal.report.content.cases import figure, model_name, short
from spinal.report.formats.format import ANYBODY, Format, Reader
from spinal.report.reported import Judged, Reported
from spinal.text import visible_json
from spinal.version import VERSION

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
MODEL = "machine-learning-model"
DAMAGE = "damage."


def render_cyclonedx(document: Reported) -> str:
    """The bill for nobody in particular: without what a service knows of the files."""
    if isinstance(document, Trace):
        return _written(document.digest, document.provenance.created_at, _of_trace(document), [])
    return render_for(document, ANYBODY)


def render_for(document: Judged, reader: Reader) -> str:
    """The candidate, with the reference as what it descends from; of a training run one model for each checkpoint."""
    if isinstance(document, Series):
        steps = [_of_step(document, place) for place in range(len(document.members))]
        return _written(document.digest, None, _of_run(document), steps)
    # Its reference may be the same content, and a bill names nothing twice.
    reference = _of_side(document.reference, reader.files.get("reference")) | {"bom-ref": "reference"}
    candidate = _of_side(document.candidate, reader.files.get("candidate")) | {
        "modelCard": {"quantitativeAnalysis": {"performanceMetrics": _metrics(document)}},
        "pedigree": {"ancestors": [reference]},
    }
    verdict = document.verdict
    candidate["properties"] += [
        *_properties(
            verdict=verdict.outcome,
            policy=verdict.policy,
            policy_digest=verdict.policy_digest,
            decided_by=verdict.decided_by,
            comparison=document.digest,
            profile=str(document.profile.get("comparison_fingerprint") or document.fingerprint),
        ),
        *_properties_of_waivers(verdict),
    ]
    links = [{"type": "quality-metrics", "url": short(address)} for address in reader.links.values()]
    return _written(
        document.digest,
        document.provenance.created_at,
        candidate | ({"externalReferences": links} if links else {}),
        [],
    )


def _written(digest: str, at: str | None, model: dict[str, Any], others: list[dict[str, Any]]) -> str:
    bill = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # The same document has the same number.
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, f'urn:spinal:{digest}')}",
        "version": 1,
        "metadata": {
            **({} if at is None else {"timestamp": at}),
            "tools": {"components": [{"type": "application", "name": "spinal", "version": VERSION}]},
            "component": model,
        },
        "components": others,
    }
    return visible_json(json.dumps(bill, indent=2)) + "\n"


def _of_side(side: Side, files: FileDigests | None) -> dict[str, Any]:
    return _model(side.source, side.weights_digest, files)


def _of_trace(trace: Trace) -> dict[str, Any]:
    found = _model(trace.model.source, trace.model.weights_digest, None)
    metrics = [] if trace.nll is None else [{"type": "nll", "value": figure(trace.nll)}]
    found["properties"] += _properties(trace=trace.digest, profile=trace.fingerprint)
    return found | {
        "modelCard": {
            "modelParameters": {"modelArchitecture": short(trace.model.architecture)},
            "quantitativeAnalysis": {"performanceMetrics": metrics},
        }
    }


def _of_run(series: Series) -> dict[str, Any]:
    properties = _properties(status=series.status, policy=series.policy, series=series.digest)
    return {"type": MODEL, "bom-ref": f"series:{series.digest}", "name": "training run", "properties": properties}


def _of_step(series: Series, place: int) -> dict[str, Any]:
    member = series.members[place]
    found = _model(member.model, member.weights_digest, None, ref=f"step:{place}")
    told = {"step": str(member.step), "state": member.state, "verdict": member.verdict, "comparison": member.comparison}
    return found | {"properties": [*found["properties"], *_properties(**told)]}


def _model(source: str, weights: str | None, files: FileDigests | None, *, ref: str | None = None) -> dict[str, Any]:
    """A checkpoint. The weights digest is over names and digests of files, and so no hash of the component: its files
    are components of it, with theirs."""
    found: dict[str, Any] = {
        "type": MODEL,
        "bom-ref": ref or f"weights:{weights}",
        "name": short(model_name(source)) or "model",
        "properties": _properties(source=source, weights_digest=weights),
    }
    if files is None:
        return found
    hashes = {name: [{"alg": "SHA-256", "content": digest}] for name, digest in sorted(files.files.items())}
    if len(files.weights) == 1:
        found["hashes"] = hashes[next(iter(files.weights))]
    parts = [{"type": "file", "name": short(name), "hashes": each} for name, each in hashes.items()]
    return found | {"components": parts}


def _properties(**told: str | None) -> list[dict[str, str]]:
    return [{"name": f"spinal:{name}", "value": short(value)} for name, value in told.items() if value]


def _properties_of_waivers(verdict: Verdict) -> list[dict[str, str]]:
    told = [_waived(rule) for rule in verdict.rules if rule.waived is not None]
    return [{"name": "spinal:waived", "value": short(each)} for each in told]


def _metrics(document: Comparison) -> list[dict[str, Any]]:
    """Every signal of damage, then what other rules of the policy looked at. Candidate minus reference."""
    signals = [_metric(f"{DAMAGE}{name}", each) for name, each in document.damage.signals.items()]
    ruled = [
        _metric(rule.path or rule.rule, rule)
        for rule in document.verdict.rules
        if not (rule.path or "").startswith(DAMAGE)
    ]
    return [metric for metric in (*signals, *ruled) if metric is not None]


def _metric(kind: str, found: DamageSignal | RuleOutcome) -> dict[str, Any] | None:
    if found.value is None:
        return None
    slices = {} if found.of is None else {"slice": short(found.of)}
    low_high = {} if found.ci is None else dict(zip(("lowerBound", "upperBound"), map(figure, found.ci), strict=True))
    interval = {"confidenceInterval": low_high} if low_high else {}
    return {"type": short(kind), "value": figure(found.value), **slices, **interval}


def _waived(rule: RuleOutcome) -> str:
    waiver = rule.waived
    return "" if waiver is None else f"{rule.rule}: would be {waiver.would_be}, until {waiver.expires}: {waiver.reason}"


def files_of_sides(document: Reported) -> Mapping[str, str]:
    """Role -> weights digest, of the sides whose files a bill lists."""
    if not isinstance(document, Comparison):
        return {}
    return {"reference": document.reference.weights_digest, "candidate": document.candidate.weights_digest}


CYCLONEDX = Format(
    "cyclonedx", (".cdx.json",), "application/vnd.cyclonedx+json; version=1.6", render_cyclonedx, render_for=render_for,
    files_of=files_of_sides,
)  # fmt: skip
