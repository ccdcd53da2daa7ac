"""What the alarms amount to: false ones, detected breaks, delays, and how early a warning came."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.checkpoints.calibration import wilson
from benchmarks.trained_series.alarms import CURVES, assessed, first_beyond, threshold
from benchmarks.trained_series.measured import Run
from benchmarks.trained_series.truth import broke_after, worse_from
from spinal.documents.series import Series

RULE = "spinal series, default policy"


@dataclass(frozen=True)
class Judged:
    """One run under one way of watching it; places count checkpoints from 0."""

    run: Run
    broke: int | None
    alarm: int | None

    @property
    def delay(self) -> int | None:
        """Checkpoints from the last one before the break to the alarm: 1 is as soon as can be. Null without an alarm,
        and where it came before a break at a known step: such an alarm is false, and the run counts as missed."""
        if self.broke is None or self.alarm is None or self.false:
            return None
        return self.alarm - self.broke

    @property
    def false(self) -> bool:
        """Whether it alarmed on a healthy run, or before a break at a known step. A run that wears out is never
        healthy: an alarm there is early, not false."""
        if self.alarm is None:
            return False
        if self.run.break_after is None:
            return self.run.kind == "healthy"
        return self.broke is not None and self.alarm <= self.broke


def lines(runs: Sequence[Run]) -> list[str]:
    """The tables, in Markdown. Raises ValueError without healthy runs of odd and of even seeds."""
    if {run.seed % 2 for run in runs if run.kind == "healthy"} != {0, 1}:
        raise ValueError("thresholds need healthy runs of odd and of even seeds")
    series = {(run.kind, run.seed): assessed(run) for run in runs}
    ways = {RULE: [_judged(run, _place(run, series[run.kind, run.seed].first_alarm_step)) for run in runs]}
    for curve in CURVES:
        ways[curve.name] = []
        for parity in (0, 1):
            healthy = [run for run in runs if run.kind == "healthy" and run.seed % 2 != parity]
            alarms = sum(each.alarm is not None for each in ways[RULE] if each.run in healthy)
            limit = threshold(curve, healthy, alarms)
            judged = [run for run in runs if run.seed % 2 == parity]
            ways[curve.name] += [_judged(run, first_beyond(curve, run, limit)) for run in judged]
    kinds = [kind for kind in dict.fromkeys(run.kind for run in runs) if kind != "healthy"]
    return [
        *_counts(runs),
        "",
        "| watched by | false, healthy | false, before a known break | all found | " + " | ".join(kinds) + " |",
        "|---|---|---|---|" + "---|" * len(kinds),
        *(_row(name, judged, kinds) for name, judged in ways.items()),
        "",
        *_warnings(runs, series, kinds),
        "",
        *_spans(runs, series, kinds),
    ]


def _counts(runs: Sequence[Run]) -> list[str]:
    counted = Counter(run.kind for run in runs)
    worse = [f"{run.kind}-{run.seed}" for run in runs if run.kind == "healthy" and worse_from(run) is not None]
    untold = [f"{run.kind}-{run.seed}" for run in runs if run.kind != "healthy" and broke_after(run) is None]
    return [
        ", ".join(f"{count} {kind}" for kind, count in counted.items()),
        f"healthy, yet clearly worse on held-out texts: {', '.join(worse) or 'none'}",
        f"broken, yet without a break: {', '.join(untold) or 'none'}",
    ]


def _judged(run: Run, alarm: int | None) -> Judged:
    return Judged(run, broke_after(run), alarm)


def _place(run: Run, step: int | None) -> int | None:
    return None if step is None else run.steps.index(step)


def _row(name: str, judged: Sequence[Judged], kinds: Sequence[str]) -> str:
    healthy = [each for each in judged if each.run.kind == "healthy"]
    known = [each for each in judged if each.run.break_after is not None]
    broken = [each for each in judged if each.run.kind != "healthy" and each.broke is not None]
    cells = [
        f"{sum(each.false for each in healthy)} of {len(healthy)}",
        f"{sum(each.false for each in known)} of {len(known)}",
        _found(broken),
        *(_found([each for each in broken if each.run.kind == kind]) for kind in kinds),
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _found(judged: Sequence[Judged]) -> str:
    delays = [each.delay for each in judged if each.delay is not None]
    if not delays:
        return f"0 of {len(judged)}"
    return f"{len(delays)} of {len(judged)}, {median(delays):g} [{min(delays)}, {max(delays)}]"


def _warnings(runs: Sequence[Run], series: dict[tuple[str, int], Series], kinds: Sequence[str]) -> list[str]:
    """How many checkpoints before its first damage alarm a run was warned of."""
    found = ["| kind | warned | warned before the damage alarm | lead in checkpoints |", "|---|---|---|---|"]
    for kind in ("healthy", *kinds):
        of_kind = [run for run in runs if run.kind == kind]
        warned, leads = 0, list[int]()
        for run in of_kind:
            judged = series[run.kind, run.seed]
            warning, alarm = _place(run, judged.first_warning_step), _place(run, judged.first_alarm_step)
            warned += warning is not None
            if warning is not None and alarm is not None:
                leads.append(alarm - warning)
        early = [lead for lead in leads if lead > 0]
        lead = f"{median(leads):g} [{min(leads)}, {max(leads)}]" if leads else "-"
        found.append(f"| {kind} | {warned} of {len(of_kind)} | {len(early)} | {lead} |")
    return found


def _spans(runs: Sequence[Run], series: dict[tuple[str, int], Series], kinds: Sequence[str]) -> list[str]:
    """Where the rule says that it began, and what told it."""
    found = ["| kind | the span it names holds the break | what alarmed first |", "|---|---|---|"]
    for kind in kinds:
        holds, alarmed, told = 0, 0, Counter[str]()
        for run in (run for run in runs if run.kind == kind):
            judged, broke = series[run.kind, run.seed], broke_after(run)
            if not judged.alarmed or broke is None:
                continue
            alarmed += 1
            told[judged.alarmed[0]] += 1
            began, surely = _place(run, judged.onset_step), _place(run, judged.worse_from_step)
            holds += began is not None and surely is not None and began <= broke < surely
        named = ", ".join(f"{name} {count}" for name, count in told.most_common())
        low, high = wilson(holds, alarmed)
        found.append(f"| {kind} | {holds} of {alarmed} [{low:.2f}, {high:.2f}] | {named} |")
    return found
