"""Says on a version in MLflow what its audit found: tags, metrics, and the verdict last.

What is written is not what one event says, but what the ledger says now of the version: by the audit that was asked for
last among those that have ended. So it does not matter in which order deliveries come, or how often: the last one finds
nothing left to write. A verdict is taken away before anything else about another audit is written, so that it does not
stand beside the digest of another. (MLflow knows no condition of a write: where two write to a version at once it may,
for as long as the one that is behind takes to look again.)
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from sqlalchemy.orm import Session

from service.audits.store import Audit, find_audit
from service.integrations.store import newest_of
from service.platform.links import LONGEST, report_link, report_page
from service.runs.held import without_hosts
from service.settings import Settings
from service.traces.store import load_comparison_document
from spinal.checkpoints.mlflow_registry import Registry, opened
from spinal.errors import ModelAccessRefused, ModelNotFound, SourceRefused, SourceUnavailable, UsageError
from worker.kinds.deliver import Asked, Told

log = structlog.get_logger(__name__)
VERDICT, AUDIT, REPORT = "spinal.verdict", "spinal.audit", "spinal.report_url"
METRIC = "spinal.metric."
TAGS = ("spinal.state", "spinal.rule", AUDIT, "spinal.digest", REPORT, "spinal.reason", VERDICT)
"""All that are ours but for those of metrics: what one audit has not, and another had, goes."""
LINKED_S = LONGEST.total_seconds()
MOST_VALUE = 500
"""Characters of a reason, which any release of MLflow takes."""
PLACED = ("center", "spread", "terminal_share")
"""What is told of each profile of localization."""
MOST_LOOKS = 5
"""How often a newer audit may end while this writes; behind that its own delivery has the last word."""


@dataclass(frozen=True)
class Wanted:
    """What is to stand on a version."""

    tags: dict[str, str]
    """With the verdict last, where there is one."""
    metrics: dict[str, float] = field(default_factory=dict)
    at_ms: int = 0
    link: str | None = field(default=None, compare=False)
    """To the report. Made anew it may be another, and is as good as the one that stands there for the same audit."""


def deliver(asked: Asked) -> Told:
    place, tenant = asked.delivery.place, asked.delivery.event.tenant
    registry = asked.settings.registries.by_name.get(place["registry"])
    if registry is None or registry.tenant != tenant:
        # An operator may set it right.
        return Told(False, detail="the settings of this worker have no such registry of this tenant")
    if not registry.write_back:
        return Told(False, detail="nothing is written to this registry any more", unwanted=True)
    reach = asked.settings.reach_of(tenant)
    if "mlflow" not in reach.settings:
        # As above: another deliverer may have other settings, too.
        return Told(False, detail="its tenant has no model source mlflow any more")
    try:
        with opened(reach) as server:
            return _bring_up_to_date(asked, server, tenant, place["registry"], place["model"], place["version"])
    except ModelNotFound:
        return Told(False, detail="the registry has no such version any more", final=True)
    except SourceUnavailable as error:
        return Told(False, detail=error.detail, retry_after_s=error.retry_after_s)
    except (ModelAccessRefused, SourceRefused, UsageError) as error:
        # An operator may set it right, hosts and addresses that this worker is not to reach among it.
        return Told(False, detail=error.detail)


def _bring_up_to_date(asked: Asked, server: Registry, tenant: str, registry: str, model: str, version: str) -> Told:
    written: Wanted | None = None
    for _ in range(MOST_LOOKS):
        wanted = _read(asked, tenant, registry, model, version)
        if wanted is None:
            return Told(True, detail="its audit is gone")
        if wanted == written:
            return Told(True, status=200)
        if asked.stopped() or time.monotonic() > asked.ends:
            return Told(False, detail="there was no time left")
        still = partial(_is_still, asked, tenant, registry, model, version, wanted)
        _write(server, model, version, wanted, asked.ends, still)
        # Another audit of the version may have ended meanwhile, and have been written before this was.
        written = wanted
    return Told(False, detail="audits of this version end faster than they can be told")


def _is_still(asked: Asked, tenant: str, registry: str, model: str, version: str, wanted: Wanted) -> bool:
    return _read(asked, tenant, registry, model, version) == wanted


def _write(server: Registry, model: str, version: str, wanted: Wanted, ends: float, still: Callable[[], bool]) -> None:
    """``still`` says, ahead of the verdict, whether it is still the one to be written."""
    found = server.version(model, version, ends)
    ours = {key: value for key, value in found.tags.items() if key in TAGS or key.startswith(METRIC)}
    tags = dict(wanted.tags)
    if wanted.link is not None:
        same = AUDIT in ours and ours[AUDIT] == tags.get(AUDIT)
        tags[REPORT] = ours.get(REPORT, wanted.link) if same else wanted.link
    new = _not_logged(server, found.run, wanted.metrics, ends)
    if new is None:
        tags |= _tags_of(wanted.metrics)
    stale = [key for key in ours if key not in tags and key != VERDICT]
    different = {key: value for key, value in tags.items() if key != VERDICT and ours.get(key) != value}
    verdict = tags.get(VERDICT)
    if VERDICT in ours and (new or stale or different or ours[VERDICT] != verdict):
        server.delete_tag(model, version, VERDICT, ends)
        del ours[VERDICT]
    if new and not _log(server, found.run, new, wanted.at_ms, ends):
        different |= _tags_of(wanted.metrics)
    for key in stale:
        server.delete_tag(model, version, key, ends)
    for key, value in different.items():
        server.set_tag(model, version, key, value, ends)
    if verdict is not None and ours.get(VERDICT) != verdict and still():
        server.set_tag(model, version, VERDICT, verdict, ends)


def _not_logged(server: Registry, run: str, metrics: Mapping[str, float], ends: float) -> dict[str, float] | None:
    """The metrics that the run does not have so; None where there is no run."""
    if not (run and metrics):
        return {} if run else None
    try:
        known = server.metrics(run, ends)
    except ModelNotFound:
        return None
    return {key: value for key, value in metrics.items() if known.get(key) != value}


def _log(server: Registry, run: str, new: Mapping[str, float], at_ms: int, ends: float) -> bool:
    """False where the run does not take them, or has gone."""
    try:
        server.log_metrics(run, new, at_ms, ends)
    except ModelNotFound:
        return False
    return True


def _read(asked: Asked, tenant: str, registry: str, model: str, version: str) -> Wanted | None:
    """What the ledger says of a version now; None where nothing has ended, or is there any more."""

    def read(session: Session) -> Wanted | None:
        newest = newest_of(session, tenant, registry, model, version)
        if newest is None:
            return None
        if newest.refused is not None:
            why = str(newest.refused.get("detail", ""))
            tags = {"spinal.state": "REFUSED", "spinal.rule": newest.rule, "spinal.reason": why[:MOST_VALUE]}
            return Wanted({key: value for key, value in tags.items() if value})
        audit = None if newest.audit_id is None else find_audit(session, tenant, newest.audit_id)
        return None if audit is None else _of_audit(session, asked.settings, registry, newest.rule, audit)

    found: Any = asked.read(read)
    wanted: Wanted | None = found
    return wanted


def _of_audit(session: Session, settings: Settings, registry: str, rule: str, audit: Audit) -> Wanted:
    succeeded = audit.state == "SUCCEEDED"
    own = settings.registries.by_name[registry]
    signed = own.report_link != "page"
    why = str((without_hosts(audit.error) or {}).get("detail", ""))
    tags = {
        "spinal.state": audit.state,
        "spinal.rule": rule,
        AUDIT: str(audit.id),
        "spinal.digest": audit.comparison or audit.candidate_trace or "",
        REPORT: "" if signed or not succeeded else report_page(settings, "audits", audit.id) or "",
        "spinal.reason": why[:MOST_VALUE],
        VERDICT: (audit.verdict or "") if succeeded else "",
    }
    kept = {key: value for key, value in tags.items() if value}
    # A version stands there for longer than a message is read.
    link = report_link(settings, own.tenant, audit.id, lifetime_s=LINKED_S) if signed and succeeded else None
    document = load_comparison_document(session, audit.comparison or "", layers=False)
    if document is None or not succeeded or audit.finished_at is None:
        return Wanted(kept, link=link)
    return Wanted(kept, _metrics(document), round(audit.finished_at.timestamp() * 1000), link)


def _metrics(document: Mapping[str, Any]) -> dict[str, float]:
    """Scores of a comparison, and where its change sits, with their intervals; what has no value is left out."""
    found = _estimates("spinal.", document.get("scores") or {}, None)
    for profile, placed in (document.get("localization") or {}).items():
        found |= _estimates(f"spinal.localization.{profile}.", placed, PLACED)
    return found


def _estimates(prefix: str, members: Mapping[str, Any], names: tuple[str, ...] | None) -> dict[str, float]:
    intervals = members.get("ci") or {}
    found = {}
    for name, value in members.items():
        if (names is None or name in names) and isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
            if name in intervals:
                found[f"{prefix}{name}.low"], found[f"{prefix}{name}.high"] = map(float, intervals[name])
    return found


def _tags_of(metrics: Mapping[str, float]) -> dict[str, str]:
    return {f"{METRIC}{name.removeprefix('spinal.')}": repr(value) for name, value in metrics.items()}
