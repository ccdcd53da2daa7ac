"""What became of a fleet's audits under faults: read from its database and from what its engine double has written."""

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from tests.support.engine_double import measured
from tests.support.fleet import Fleet
from tests.support.places import ROOT

OUR_DOING = ("lost", "cancelled", "succeeded")
"""Ends of attempts that may be charged whatever the surroundings do: killed, given up, done."""

ATTEMPTS = """
    SELECT CAST(a.run_id AS text) AS run, a.attempt, a.outcome, a.error->>'code' AS code, a.error->>'detail' AS detail,
           COALESCE(r.spec->>'tenant', '') AS tenant, r.spec_digest, r.kind, r.state, r.charged_attempts
    FROM run_attempts a JOIN runs r ON r.id = a.run_id ORDER BY a.run_id, a.attempt"""

FAILED = """
    SELECT CAST(a.id AS text) AS id, a.error->>'code' AS code, array_agg(CAST(x.run_id AS text)) AS runs
    FROM audits a LEFT JOIN audit_runs x ON x.audit_id = a.id WHERE a.state = 'FAILED' GROUP BY a.id"""

STARTS = """
    SELECT a.tenant,
      (SELECT count(*) FROM run_attempts t JOIN runs r ON r.id = t.run_id
       WHERE r.spec->>'tenant' = :flood AND t.started_at > a.created_at AND t.started_at < a.started_at) AS before,
      (SELECT count(*) FROM run_attempts t JOIN runs r ON r.id = t.run_id
       WHERE r.spec->>'tenant' = a.tenant AND t.started_at > a.created_at AND t.started_at < a.started_at) AS own,
      (SELECT count(*) FROM runs r WHERE r.spec->>'tenant' = :flood AND r.created_at < a.created_at
         AND (r.started_at IS NULL OR r.started_at > a.created_at)
         AND (r.finished_at IS NULL OR r.finished_at > a.created_at)) AS waiting
    FROM audits a WHERE a.tenant <> :flood AND a.started_at IS NOT NULL ORDER BY a.created_at"""

RECOVERIES = """
    SELECT CAST(EXTRACT(epoch FROM a.started_at) AS float8) AS began,
           CAST(EXTRACT(epoch FROM COALESCE(n.started_at, r.finished_at)) AS float8) AS again
    FROM run_attempts a JOIN runs r ON r.id = a.run_id
    LEFT JOIN run_attempts n ON n.run_id = a.run_id AND n.attempt = a.attempt + 1
    WHERE a.outcome IN ('lost','retry','released')"""


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _of_the_engine(attempt: Any) -> bool:
    """Whether an attempt ended by what the engine double was told to do wrong: a bug, or a lost device. (A disk that it
    finds full is no fault of the run.)"""
    return (attempt.code or "").startswith("device") or "ZeroDivisionError" in (attempt.detail or "")


def _taken_away(attempt: Any) -> bool:
    """Killed, frozen, given up, or asked to stop: what it had measured may well be gone."""
    return attempt.outcome in ("lost", "cancelled") or (attempt.outcome == "released" and attempt.code is None)


def measurements(fleet: Fleet) -> dict[str, Any]:
    """Measurements that came to their end, counted by tenant and by what they measured."""
    attempts = {(row.run, str(row.attempt)): row for row in fleet.rows(ATTEMPTS)}
    made: dict[tuple[str, str, str], set[tuple[str, str]]] = defaultdict(set)
    by_tenant: Counter[str] = Counter()
    gone, for_comparisons = 0, 0
    for run, attempt, what in measured(fleet.double):
        row = attempts[run, attempt]
        by_tenant[row.tenant] += 1
        if _taken_away(row):
            gone += 1
        elif row.kind != "trace" and what == "measure":
            # A comparison measures only what it does not find where it was stored.
            for_comparisons += 1
        else:
            made[row.tenant, row.spec_digest, what].add((run, attempt))
    return {
        "measurements by tenant": dict(by_tenant),
        "measurements of attempts that were killed, frozen or given up": gone,
        "measured twice for a tenant": sum(len(found) - 1 for found in made.values()),
        "attempts of these": [
            [f"{attempts[each].outcome} ({attempts[each].code})" for each in sorted(found)]
            for found in made.values()
            if len(found) > 1
        ],
        "stored captures measured again": for_comparisons,
    }


def charges(fleet: Fleet) -> dict[str, Any]:
    """Attempts by how they ended, and those charged to a run that were no doing of its own."""
    runs: dict[str, list[Any]] = defaultdict(list)
    for row in fleet.rows(ATTEMPTS):
        runs[row.run].append(row)
    codes: Counter[str] = Counter()
    charged = wrongly = 0
    for attempts in runs.values():
        charged += attempts[0].charged_attempts
        own = [each for each in attempts if each.outcome in (None, *OUR_DOING) or _of_the_engine(each)]
        excess = max(0, attempts[0].charged_attempts - len(own))
        wrongly += excess
        others = [each for each in attempts if each not in own and each.outcome != "released"]
        codes.update(str(each.code) for each in others[:excess])
    outcomes = Counter(str(each.outcome) for attempts in runs.values() for each in attempts)
    return {
        "attempts by outcome": dict(outcomes),
        "attempts charged": charged,
        "charged for the infrastructure's sake": wrongly,
        "codes of these": dict(codes),
    }


def failures(fleet: Fleet, known: Collection[str]) -> dict[str, Any]:
    """Failed audits of ``known``. For the infrastructure's sake: some attempt of theirs ended neither by a kill nor by
    the engine."""
    attempts: dict[str, list[Any]] = defaultdict(list)
    for row in fleet.rows(ATTEMPTS):
        attempts[row.run].append(row)
    own, others = 0, Counter[str]()
    for audit in fleet.rows(FAILED):
        if audit.id not in known:
            continue
        to_blame = [
            each
            for run in audit.runs
            for each in attempts.get(str(run), [])
            if each.state == "FAILED" and each.code and each.outcome not in OUR_DOING and not _of_the_engine(each)
        ]
        if to_blame or audit.code not in ("attempts_exhausted", "dependency_failed"):
            others[" after ".join(dict.fromkeys([str(audit.code), *(each.code for each in to_blame)]))] += 1
        else:
            own += 1
    return {
        "failed for the infrastructure's sake": sum(others.values()),
        "their codes": dict(others),
        "failed after kills or errors of the engine": own,
    }


def fairness(fleet: Fleet, flood: str, *, children: int) -> dict[str, Any]:
    """How many runs of the tenant ``flood`` were started between the submission of another tenant's audit and its own
    start. Only audits that met a queue of several times as many runs as there are children say anything."""
    met = [row for row in fleet.rows(STARTS, flood=flood) if row.waiting > 3 * children]
    before = [row.before for row in met]
    # Tenants take turns: what its own tenant had submitted earlier lets as many of the flood go first.
    beyond = [row.before - row.own for row in met]
    return {
        "worker children": children,
        "audits of others that met the flood": len(met),
        "runs of the flood waiting then, at the median": percentile([row.waiting for row in met], 0.5),
        "runs of the flood started before them, p50 / p90 / most": [percentile(before, s) for s in (0.5, 0.9, 1.0)],
        "of these beyond one for each of their own, p50 / p90 / most": [percentile(beyond, s) for s in (0.5, 0.9, 1.0)],
    }


def recoveries(fleet: Fleet, outages: Sequence[tuple[float, float]], *, grace_s: float) -> list[float]:
    """Seconds from the start of an attempt that was taken away to the start of the next one, where neither the store
    nor a disk was gone meanwhile (``outages``: from, until) or shortly before."""
    found = [(row.began, row.again) for row in fleet.rows(RECOVERIES) if row.again is not None]
    return [
        again - began
        for began, again in found
        if not any(began < until + grace_s and again > since for since, until in outages)
    ]


def at_work(fleet: Fleet, outages: Sequence[tuple[float, float]]) -> int:
    """Attempts that went on at some moment of ``outages``, and ended while one lasted or after it."""
    return sum(
        fleet.rows(
            """SELECT count(*) FROM run_attempts WHERE started_at < to_timestamp(:until)
                 AND COALESCE(ended_at, now()) > to_timestamp(:since)""",
            since=since, until=until,
        )[0][0]
        for since, until in outages
    )  # fmt: skip


def doctor(fleet: Fleet) -> tuple[int, str]:
    """Exit code and output of ``spinal doctor``, which reads every stored capture, too."""
    done = subprocess.run(
        [sys.executable, "-m", "spinal.cli.start", "doctor"],
        capture_output=True, text=True, check=False, timeout=900.0, cwd=ROOT, env=fleet.environment,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).strip()[-2000:]
