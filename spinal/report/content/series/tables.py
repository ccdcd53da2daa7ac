"""Tables of a training run: alarms, signals, checkpoints, what carries the change, and where all of it came from."""

from collections.abc import Mapping

from spinal.analysis.human_terms import unit_in_words
from spinal.documents.series import Series, SeriesPoint, SeriesSignal
from spinal.numbers import share
from spinal.report.content.cells import DASH, Table, interval, number
from spinal.report.content.series.cases import last_measured
from spinal.report.content.series.lead import (
    KINDS,
    ROLES,
    alarms_of,
    between,
    is_measured,
    member_label,
    name_of,
    not_followed,
    state_of,
    status_of,
    unmeasured,
)
from spinal.report.content.series.shares import largest


def alarms_table(series: Series) -> Table:
    """Every finding, first known first; its sentence stands among the reasons."""
    rows = [
        (
            name_of(series, alarm.signal) + (f" ({alarm.of})" if alarm.of else ""),
            ROLES[alarm.role],
            KINDS[alarm.kind],
            between(alarm.onset_step, alarm.worse_from_step),
            f"{alarm.step:,}",
        )
        for alarm in series.alarms
    ]
    header = ("signal", "counts as", "found", "began", "known at step")
    note = "Damage makes a run destabilised; early warning alone asks for a look."
    return Table("Alarms", header, tuple(rows), note, narrow=(0, 3, 4, 1))


def signals_table(series: Series) -> Table:
    """Every signal at its last checkpoint, with its largest fall."""
    rows = []
    for key, signal in series.signals.items():
        last, worst = last_measured(signal), _worst(signal)
        alarms = alarms_of(series, key)
        found = ", ".join(dict.fromkeys(KINDS[alarm.kind] for alarm in alarms))
        rows.append(
            (
                signal.label,
                ROLES[signal.role],
                DASH if last is None else f"{last.step:,}",
                DASH if last is None else value_of(last),
                unit_in_words(signal.unit),
                DASH if worst is None else f"{number(worst.fall)} at step {worst.step:,}",
                number(None if worst is None else worst.distance, 2),
                number(signal.threshold, 2),
                number(_least(signal)),
                number(signal.limit),
                found or (_quiet(signal)),
            )
        )
    header = (
        "signal", "counts as", "last step", "value there", "unit", "largest fall from the best", "distance",
        "threshold", "least fall that counts", "limit", "alarms",
    )  # fmt: skip
    note = (
        "A fall counts where, at two consecutive checkpoints, its distance exceeds the threshold and its lower end the "
        "least fall; the limit is that of any one checkpoint."
    )
    return Table("Signals", header, tuple(rows), note, narrow=(0, 10, 3, 5, 1))


def members_table(series: Series, links: Mapping[str, str] | None = None) -> Table:
    """Every checkpoint, by step, each with a link to its own report where ``links`` has one for it."""
    given = links or {}
    found = tuple(given.get(member_label(member)) for member in series.members)
    # An audit is named where no link leads to it.
    named = any(member.audit is not None and link is None for member, link in zip(series.members, found, strict=True))
    rows = [
        (
            f"{member.step:,}",
            member.model,
            status_of(member),
            member.damage or DASH,
            state_of(member),
            *((member.audit or DASH,) if named else ()),
            member.verdict_reason or DASH,
        )
        for member in series.members
    ]
    header = (
        "step", "checkpoint", "verdict alone", "damage", "state", *(("audit",) if named else ()), "first reason",
    )  # fmt: skip
    note = f"Compared with {series.reference}. The verdict is that of {series.policy} on the checkpoint by itself."
    return Table(
        "Checkpoints",
        header,
        tuple(rows),
        note,
        narrow=(0, 2, 3, 4),
        links=found,
    )


def values_table(series: Series) -> Table:
    """Every signal at every step."""
    told = [signal for signal in series.signals.values() if is_measured(signal)]
    by_step: list[dict[int, SeriesPoint]] = [{point.step: point for point in signal.points} for signal in told]
    rows = [
        (f"{member.step:,}", *(value_of(points.get(member.step)) for points in by_step)) for member in series.members
    ]
    units = "; ".join(f"{signal.label}: {unit_in_words(signal.unit)}" for signal in told)
    return Table(
        "Signals at every step",
        ("step", *(signal.label for signal in told)),
        tuple(rows) if told else (),
        f"Candidate minus reference with 95% intervals over prompts; "
        f"↯ where it is surely worse than its best by as much as counts. {units}.",
    )


def shares_table(series: Series) -> Table:
    """The places that carry most, at every step."""
    rows = []
    for member in series.members:
        if not member.carried:
            continue
        most = ", ".join(f"{place} {share(value)}" for place, value in largest(member.carried))
        least = min(member.carried.items(), key=lambda item: item[1])
        against = f"{least[0]} {share(least[1])}" if least[1] < 0.0 else DASH
        rows.append((f"{member.step:,}", most, against))
    return Table(
        "What carries the change",
        ("at step", "carry most", "works most against it"),
        tuple(rows),
        "Shares of the change of KL(reference || candidate), by place.",
    )


def provenance_table(series: Series) -> Table:
    """What the answer was made of, but for its checkpoints."""
    rows = [
        ("digest", series.digest),
        ("reference", series.reference),
        ("reference weights", series.reference_weights_digest or DASH),
        ("policy", series.policy),
        ("policy digest", series.policy_digest),
        ("closed", "yes" if series.closed else "no: checkpoints may still come"),
    ]
    if series.settings.plateau_from_step is not None:
        rows.append(("plateau approved from step", f"{series.settings.plateau_from_step:,}"))
    rows += [(f"label {name}", value) for name, value in series.labels.items()]
    return Table("Provenance", ("what", "value"), tuple(rows))


def digests_table(series: Series) -> Table:
    """Digests of what every checkpoint is and was measured to be."""
    rows = [
        (f"{member.step:,}", member.weights_digest or DASH, member.comparison or DASH)
        for member in series.members
        if member.weights_digest or member.comparison
    ]
    return Table("Digests of the checkpoints", ("at step", "weights", "comparison"), tuple(rows))


def value_of(point: SeriesPoint | None) -> str:
    """``0.41 [0.38, 0.44]``, with a mark where it is beyond."""
    if point is None or point.value is None:
        return DASH
    return f"{number(point.value)} {interval(point.ci)}".strip() + (" ↯" if point.beyond else "")


def _worst(signal: SeriesSignal) -> SeriesPoint | None:
    """Where it has fallen farthest; None where it never fell."""
    fallen = [point for point in signal.points if point.fall is not None and point.fall > 0.0]
    return max(fallen, key=lambda point: point.fall or 0.0, default=None)


def _least(signal: SeriesSignal) -> float | None:
    if signal.least_effect is not None:
        return signal.least_effect
    last = last_measured(signal)
    return None if last is None else last.least_effect


def _quiet(signal: SeriesSignal) -> str:
    if not is_measured(signal):
        return unmeasured(signal)
    return not_followed(signal) or "none"
