"""Whole documents of training runs, made from what is said to have happened in them: no model, no detector. Their
numbers belong together as a reader needs it: a fall is what the values show, an alarm lies where the fall is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

from spinal.documents.canonical import digest_of
from spinal.documents.series import (
    ChangePoint,
    Role,
    Series,
    SeriesAlarm,
    SeriesMember,
    SeriesPoint,
    SeriesSignal,
    Status,
)

Kind = Literal[
    "healthy", "drawdown", "limit", "watch", "inconclusive", "insufficient", "waiting", "gaps", "no account", "empty"
]
KINDS: tuple[Kind, ...] = (
    "healthy", "drawdown", "limit", "watch", "inconclusive", "insufficient", "waiting", "gaps", "no account", "empty",
)  # fmt: skip
HOSTILE = (
    '</title></script><script>document.title="ran"</script><img src=x onerror=document.title="ran">|`*\u202e\x1b[2K'
)
"""What a page, a table, a terminal or a file would obey if it were let."""


@dataclass(frozen=True)
class Signal:
    """How one signal moves in a healthy run."""

    label: str
    unit: str
    better: Literal["lower", "higher"] | None
    role: Role
    slope: float
    """What it gains from the first member to the last."""
    noise: float
    """Standard error of one member."""
    broken: float
    """What it gains from the break to the last member beyond that."""
    least: float | None
    limit: float | None = None
    needed: bool = False
    of: tuple[str, ...] = field(default=())


SIGNALS: dict[str, Signal] = {
    "nll_change": Signal("predicts text worse", "nats/token", "lower", "damage", -0.06, 0.012, 0.9, 0.15, 1.0, True),
    "nll_change_worst_category": Signal(
        "worst category", "nats/token", "lower", "damage", -0.08, 0.03, 1.1, 0.25, 1.0, of=("german", "code")
    ),
    "margin_change": Signal("prefers what it should", "nats", "higher", "damage", 1.4, 0.11, -1.7, 0.25, -2.0),
    "end_log_p_change": Signal("ends where answers are over", "nats", "higher", "damage", -0.1, 0.05, -0.4, 0.5, -3.0),
    "gap": Signal("output moved", "radians", None, "early_warning", 0.4, 0.015, 0.5, 0.06),
    "late_share": Signal("share of the last third", "of 1", None, "early_warning", 0.1, 0.02, 0.0, 0.1),
}


def series(kind: Kind = "healthy", members: int = 12, blocks: int = 12, **changes: Any) -> Series:
    """A run of ``members`` checkpoints of a model of ``blocks`` blocks; ``changes`` are put over the members of the
    document."""
    made = _series(kind, members, blocks)
    return made.model_copy(update=changes) if changes else made


def hostile(members: int = 6) -> Series:
    """Every name, label and reason of the document is one that would do harm."""
    made = series("drawdown", members, 4)
    document = made.model_dump(by_alias=True)
    document |= {
        "reference": HOSTILE,
        "policy": HOSTILE,
        "labels": {HOSTILE: HOSTILE},
        "reasons": [HOSTILE],
        "remarks": [HOSTILE],
        "alarmed": [HOSTILE],
        "signals": {HOSTILE if name == "nll_change" else name: one for name, one in document["signals"].items()},
    }
    for one in document["signals"].values():
        one |= {"label": HOSTILE, "unit": HOSTILE, "reason": HOSTILE}
        for point in one["points"]:
            point |= {"of": HOSTILE, "reason": HOSTILE}
    for alarm in document["alarms"]:
        alarm |= {"signal": HOSTILE, "of": HOSTILE, "text": HOSTILE}
    for member in document["members"]:
        member |= {"model": HOSTILE, "audit": HOSTILE, "verdict_reason": HOSTILE, "reason": HOSTILE}
        member["carried"] = {HOSTILE: 0.2, **member["carried"]}
    return Series.model_validate(document)


@cache
def _series(kind: Kind, members: int, blocks: int) -> Series:
    count = {"insufficient": min(members, 3), "empty": 0}.get(kind, members)
    steps = [100 * (at + 1) for at in range(count)]
    broken = None if kind not in ("drawdown", "limit", "waiting") or count < 4 else (2 * count) // 3
    missing = _missing(kind, count)
    signals = {name: _signal(name, one, kind, steps, broken, missing) for name, one in SIGNALS.items()}
    alarms = _alarms(kind, steps, broken, signals)
    damage = [alarm for alarm in alarms if alarm.role == "damage"]
    warned = [alarm for alarm in alarms if alarm.role == "early_warning"]
    status = _status(kind, count, alarms)
    listed = tuple(_member(at, step, kind, blocks, count, broken, missing, damage) for at, step in enumerate(steps))
    return Series(
        digest=digest_of({"series": [kind, members, blocks]}),
        status=status,
        onset_step=damage[0].onset_step if damage else None,
        worse_from_step=damage[0].worse_from_step if damage else None,
        first_alarm_step=damage[0].step if damage else None,
        first_warning_step=warned[0].step if warned else None,
        alarmed=tuple(dict.fromkeys(alarm.signal for alarm in damage)),
        warned=tuple(dict.fromkeys(alarm.signal for alarm in warned)),
        reasons=_reasons(status, alarms, count),
        alarms=tuple(alarms),
        reference="local:sft",
        reference_weights_digest=digest_of("sft"),
        policy="spinal-default/2",
        policy_digest=digest_of("policy"),
        labels={"run": "dpo-7", "team": "chat"},
        closed=kind != "waiting",
        members=listed,
        signals=signals,
        remarks=(
            "No early warning was looked for on a plateau: none was approved.",
            "The run was read on 64 prompts; what they do not ask is not looked at.",
        ),
    )


def _missing(kind: Kind, count: int) -> set[int]:
    if kind == "inconclusive":
        return {count // 2}
    if kind == "waiting":
        return {count - 1}
    return {2, count - 3, count - 1} if kind == "gaps" else set()


def _signal(
    name: str, one: Signal, kind: Kind, steps: Sequence[int], broken: int | None, missing: set[int]
) -> SeriesSignal:
    draw = np.random.default_rng(sum(name.encode()) + len(steps))
    count = len(steps)
    unmeasured = (name == "margin_change" and kind == "inconclusive") or kind == "empty"
    values: list[float | None] = []
    for at in range(count):
        along = at / max(count - 1, 1)
        value = one.slope * along + one.noise * float(draw.standard_normal())
        if broken is not None and at >= broken:
            value += one.broken * (at - broken + 1) / (count - broken)
        if kind == "watch" and name == "gap" and along > 0.6:
            value += 0.5 * (along - 0.6)
        if kind == "limit" and name == "nll_change" and at == count - 1:
            value = 2.4
        gap = at in missing or unmeasured or (kind == "gaps" and (at + len(name)) % 5 == 0)
        values.append(None if gap else value)
    reason = "no pairs were given" if unmeasured and name == "margin_change" else None
    changes: tuple[ChangePoint, ...] = ()
    if kind == "watch" and name == "gap" and count >= 8:
        changes = (ChangePoint(step=steps[int(0.6 * count)], change=0.19, before=0.035, after=0.08),)
    return SeriesSignal(
        label=one.label,
        unit=one.unit,
        better=one.better,
        role=one.role,
        threshold=2.7 if one.better else None,
        sigma=one.noise,
        least_effect=one.least,
        limit=one.limit,
        points=tuple(_points(one, steps, values)),
        change_points=changes,
        needed=one.needed,
        reason=reason,
    )


def _points(one: Signal, steps: Sequence[int], values: Sequence[float | None]) -> list[SeriesPoint]:
    sign = 1.0 if one.better == "lower" else -1.0
    points = []
    best: tuple[float, int] | None = None
    for at, (step, value) in enumerate(zip(steps, values, strict=True)):
        if value is None:
            points.append(SeriesPoint(step=step, value=None, reason="not measured"))
            continue
        told: dict[str, Any] = {}
        if one.better is not None and one.least is not None:
            if best is None or sign * value < best[0]:
                best = (sign * value, step)
            fall = sign * value - best[0]
            distance = fall / (one.noise * 2**0.5)
            low = fall - 1.96 * one.noise
            told = {
                "fall": fall, "fall_low": low, "distance": distance, "best_step": best[1], "least_effect": one.least,
                "beyond": distance > 2.7 and low > one.least,
            }  # fmt: skip
        wide = 1.96 * one.noise
        points.append(
            SeriesPoint(
                step=step,
                value=value,
                ci=(value - wide, value + wide),
                se=one.noise,
                n=64,
                of=one.of[(at // 3) % len(one.of)] if one.of else None,
                **told,
            )
        )
    return points


def _alarms(
    kind: Kind, steps: Sequence[int], broken: int | None, signals: dict[str, SeriesSignal]
) -> list[SeriesAlarm]:
    found = []
    if kind in ("drawdown", "waiting") and broken is not None:
        for name, signal in signals.items():
            beyond = [at for at, point in enumerate(signal.points) if point.beyond]
            known = next((at for at in beyond if at - 1 in beyond), None)
            if known is None:
                continue
            onset = signal.points[known].best_step or steps[0]
            said = f"{signal.label} between steps {onset:,} and {steps[known - 1]:,}, known at step {steps[known]:,}"
            found.append(
                SeriesAlarm(
                    kind="drawdown",
                    signal=name,
                    role="damage",
                    step=steps[known],
                    onset_step=onset,
                    worse_from_step=steps[known - 1],
                    of=signal.points[known].of,
                    text=said,
                )
            )
    if kind == "limit":
        value = signals["nll_change"].points[-1].value
        found.append(
            SeriesAlarm(
                kind="limit",
                signal="nll_change",
                role="damage",
                step=steps[-1],
                onset_step=steps[-2],
                worse_from_step=steps[-1],
                text=f"predicts text 11 times worse: +{value} nats a token, limit 1.0",
            )
        )
    if kind == "watch":
        found += [
            SeriesAlarm(
                kind="change_point",
                signal=name,
                role="early_warning",
                step=steps[-1],
                onset_step=change.step,
                text=f"{signal.label}: its slope changes after step {change.step:,}",
            )
            for name, signal in signals.items()
            for change in signal.change_points
        ]
    return sorted(found, key=lambda alarm: alarm.step)


def _status(kind: Kind, count: int, alarms: Sequence[SeriesAlarm]) -> Status:
    if any(alarm.role == "damage" for alarm in alarms):
        return "destabilised"
    if kind == "inconclusive":
        return "inconclusive"
    if count < 5:
        return "insufficient_series"
    return "watch" if alarms else "healthy"


def _reasons(status: Status, alarms: Sequence[SeriesAlarm], count: int) -> tuple[str, ...]:
    if alarms:
        return tuple(alarm.text for alarm in alarms)
    return {
        "inconclusive": ("prefers what it should could not be measured: no pairs were given",),
        "insufficient_series": (f"{count} checkpoints are too few for an onset: it needs at least 5",),
    }.get(status, (f"no alarm over {count} checkpoints",))


def _member(
    at: int,
    step: int,
    kind: Kind,
    blocks: int,
    count: int,
    broken: int | None,
    missing: set[int],
    damage: Sequence[SeriesAlarm],
) -> SeriesMember:
    model = f"local:runs/dpo-7/checkpoint-{step}"
    if at in missing:
        waits = kind == "waiting"
        return SeriesMember(
            step=step,
            model=model,
            state="waiting" if waits else "failed",
            reason=None if waits else "weights_corrupt: a tensor holds numbers that are not finite",
        )
    limit = any(alarm.kind == "limit" and alarm.step == step for alarm in damage)
    broke = broken is not None and at > broken
    return SeriesMember(
        step=step,
        model=model,
        state="measured",
        weights_digest=digest_of(["weights", step]),
        comparison=digest_of(["comparison", kind, step]),
        audit=f"0192f0c8-0000-7000-8000-{step:012d}",
        verdict="fail" if limit else "warn" if broke else "pass",
        verdict_reason="predicts text 11 times worse" if limit else "no sure sign of damage",
        beyond=("nll_change",) if limit else (),
        damage="damaged" if limit else "watch" if broke else "none",
        carried={} if kind in ("no account", "empty") else _carried(at, count, blocks, broken),
    )


def _carried(at: int, count: int, blocks: int, broken: int | None) -> dict[str, float]:
    """Shares that move from the first third to the last as training goes on; after a break the read-out takes over."""
    along = at / max(count - 1, 1)
    depth = (np.arange(blocks) + 0.5) / blocks
    weights = np.exp(-0.5 * ((depth - 0.3 - 0.45 * along) / 0.18) ** 2) + 0.05
    read_out = 0.05 if broken is None or at < broken else 0.3
    shares = weights / weights.sum() * (0.97 - read_out)
    if blocks > 2:
        # One block works against the change, and the others make up for it.
        shares[1] -= 0.06
        shares[blocks // 2] += 0.06
    return {
        "embeddings": 0.03,
        **{f"block {number}": float(share) for number, share in enumerate(shares, start=1)},
        "read-out": read_out,
    }
