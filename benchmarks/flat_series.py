"""How often do flat series alarm? ``python -m benchmarks.flat_series [--series N]``.

Measures the bundled pair once, prompt by prompt, and simulates training runs in which nothing happens: every member
is the same, but for noise drawn from the prompts' own joint changes, so that signals keep their covariances and tails.
All detectors look at every series together. Prints the alarms beside the bar of 17 of 1,000 (what a rate of 1% stays
within in 39 of 40 such counts), with the least effects and without any; and the same of healthy ramps, on which text
gets worse by 0.08 nats, the output moves away and the margin grows. Exits with 1 where a count is beyond the bar.
Deterministic; a quarter of an hour on two busy cores, most of it the measurement.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinal.analysis.accounts import finite, parts
from spinal.analysis.compare import compare
from spinal.analysis.damage.limits import LIMITS
from spinal.analysis.series import effects as least_effects
from spinal.analysis.series.detectors import Falling, Found, Moving, detect
from spinal.analysis.series.effects import OF_BEST, SHARE, early_effect, fall_effect, margin_effect
from spinal.audit import Ports, TemporaryCaptures, trace_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.base import Provenance
from spinal.documents.capture import load_capture
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
CHECKPOINTS = Path(__file__).resolve().parents[1] / "examples" / "checkpoints"
PROMPTS = "hh-shorter-64"
PROFILE = MeasurementProfile(
    max_tokens=64, lens_positions=4, swap_prompts=4, stitch_prompts=64, stitch_tokens=32, pair_tokens=192,
    greedy_prompts=64, greedy_tokens=32,
)  # fmt: skip
LENGTHS = (5, 10, 20, 50)
BAR = 17
"""Of 1,000."""
CATEGORIES = 8
FEWEST_FLIPPED = 0.05
"""Were none of the pair's answers to end on one side only, the signal would never move."""
RAMP = 0.08
"""Nats a token that a healthy DPO run raises NLL by."""


@dataclass(frozen=True)
class Rows:
    """What every prompt of the pair did, P prompts."""

    change: Array
    """(P, 4) changes of NLL, of the log probability of an end (NaN where an answer is cut), of the margin; gap at D."""
    phi: Array
    """(P, M) parts of the account of KL(reference || candidate), places in order."""
    ended: float
    """Share of greedy answers that end on one side only, and no less than ``FEWEST_FLIPPED``."""
    answers: int


ENDS = "end_log_p_change"
NAMES = ("nll_change", ENDS, "margin_change", "gap")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--fall", type=float, help="part of a watch limit from where on a fall counts, to try another")
    chosen = parser.parse_args()
    if chosen.fall is not None:
        least_effects.FALL = chosen.fall
    count = chosen.series
    rows = measured_rows()
    print(f"{len(rows.change)} prompts of the bundled pair; all detectors together, {count} series of each length")
    print(f"{'series':16} {'members':>7} {'least effects':>13} {'damage':>7} {'early':>6} {'either':>7} {'bar':>5}")
    bar = math.ceil(BAR * count / 1000)
    beyond = 0
    for kind in ("flat", "healthy ramp"):
        for n in LENGTHS:
            for effects in (True, False) if kind == "flat" else (True,):
                ramp = RAMP if kind == "healthy ramp" else 0.0
                damage, early, either = alarms(rows, n, count, ramp=ramp, effects=effects)
                beyond += either > bar
                told = "yes" if effects else "none"
                print(f"{kind:16} {n:7} {told:>13} {damage:7} {early:6} {either:7} {bar:5}", flush=True)
    print("every count within the bar" if not beyond else f"{beyond} counts beyond the bar")
    return 1 if beyond else 0


def alarms(rows: Rows, n: int, count: int, *, ramp: float = 0.0, effects: bool = True) -> tuple[int, int, int]:
    """Of ``count`` series of ``n`` members, how many have an alarm of damage, of early warning, of either."""
    found = [look(*one, effects=effects) for one in simulated(rows, n, count, ramp)]
    damage = [any(of.falls for parts in one.drawdowns.values() for of in parts.values()) for one in found]
    early = [any(one.counted_breaks.values()) or any(one.shifts.values()) for one in found]
    return sum(damage), sum(early), sum(one or other for one, other in zip(damage, early, strict=True))


Signals = tuple[dict[str, dict[str | None, Falling]], dict[str, Moving]]


def look(falling: dict[str, dict[str | None, Falling]], moving: dict[str, Moving], *, effects: bool) -> Found:
    """All detectors, with a plateau that is the whole series where that is flat."""
    if not effects:
        falling = {
            name: {part: replace(of, least=0.0, of_best=0.0) for part, of in by_part.items()}
            for name, by_part in falling.items()
        }
        moving = {name: replace(of, least=0.0, upward=False) for name, of in moving.items()}
    n = next(iter(moving.values())).values.size
    flat = np.ones(n, dtype=bool)
    return detect(falling, moving, flat if not _ramps(moving) else None, lows_everywhere=False)


def _ramps(moving: dict[str, Moving]) -> bool:
    """A plateau is approved only of series that are flat."""
    gap = moving["gap"].values
    return bool(abs(gap[-1] - gap[0]) > 0.05)


def simulated(rows: Rows, n: int, count: int, ramp: float) -> Iterator[Signals]:
    """``count`` series of ``n`` members; with a ``ramp`` (nats a token) every signal goes its healthy way, too."""
    generator = np.random.default_rng([n, count, round(1000 * ramp)])
    prompts = len(rows.change)
    own = rows.change - np.nanmean(rows.change, axis=0)
    # Noise of a prompt is that of another whose answer was cut, or was not, like its own.
    whole = np.isfinite(rows.change).all(axis=1)
    like = [np.flatnonzero(whole == kind) for kind in (False, True)]
    place = np.linspace(0.0, 1.0, n)
    groups = np.array_split(np.arange(prompts), CATEGORIES)
    thirds = np.array_split(np.arange(1, rows.phi.shape[1] - 1), 3)
    for _ in range(count):
        drawn = np.empty((n, prompts), dtype=np.int64)
        for kind, members_of in enumerate(like):
            if members_of.size:
                drawn[:, whole == bool(kind)] = generator.choice(members_of, size=(n, members_of.size))
        members = rows.change + own[drawn]
        phi = (rows.phi.mean(axis=0) + (rows.phi - rows.phi.mean(axis=0))[drawn]).mean(axis=1)
        base = generator.random(rows.answers) < 0.5
        flipped = generator.random((n, rows.answers)) < rows.ended
        if ramp:
            # NLL rises evenly; the margin grows; the output moves fast at first and then more slowly.
            members = members + np.outer(place, [ramp, 0.0, 0.4, 0.0])[:, None, :]
            members[:, :, 3] += (0.2 * (1.0 - np.exp(-3.0 * place)) - rows.change[:, 3].mean())[:, None]
        values = dict(zip(NAMES, np.moveaxis(members, 2, 0), strict=True))
        shares = phi / phi.sum(axis=1, keepdims=True)
        yield _signals(values, (base ^ flipped).astype(float) - base, shares, groups, thirds)


def _signals(
    values: dict[str, Array], ended: Array, shares: Array, groups: list[IntArray], thirds: list[IntArray]
) -> Signals:
    """As ``spinal.policy.series.arrays`` takes them of comparisons, under the limits of the default policy."""
    nll = values["nll_change"]
    watch = {name: limit.watch for name, limit in LIMITS.items()}
    falling: dict[str, dict[str | None, Falling]] = {
        "nll_change": {None: Falling(nll, fall_effect(watch["nll_change"]))},
        "nll_change_worst_category": {
            str(place): Falling(nll[:, group], fall_effect(watch["nll_change_worst_category"]))
            for place, group in enumerate(groups)
        },
        "end_share_change": {None: Falling(-ended, fall_effect(watch["end_share_change"]), counted=True)},
        "end_log_p_change": {None: Falling(-values["end_log_p_change"], fall_effect(watch["end_log_p_change"]))},
        "margin_change": {
            None: Falling(-values["margin_change"], margin_effect(watch["margin_change"]), of_best=OF_BEST)
        },
    }
    grouped = {
        "embeddings": shares[:, 0],
        **{f"third {place}": shares[:, third].sum(axis=1) for place, third in enumerate(thirds, 1)},
        "read-out": shares[:, -1],
    }
    moving = {"gap": Moving(values["gap"].mean(axis=1), early_effect(watch["gap"]), upward=True)}
    return falling, moving | {name: Moving(share, SHARE) for name, share in grouped.items()}


def measured_rows() -> Rows:
    """The bundled pair, prompt by prompt."""
    prompts = builtin_prompts(PROMPTS)
    with tempfile.TemporaryDirectory(prefix="spinal-flat-") as temporary:
        # The engine, and with it torch, only where something is measured.
        from spinal.engine.pair import gather_evidence

        ports = Ports(captures=TemporaryCaptures(Path(temporary)))
        sides = [resolve_reference(str(CHECKPOINTS / name), roots=None) for name in ("sft", "dpo-short")]
        traced = [trace_checkpoint(side, prompts, PROFILE, ports=ports) for side in sides]
        evidence = gather_evidence(
            *sides,
            reference_capture=traced[0].capture,
            candidate_capture=traced[1].capture,
            prompts=prompts,
            profile=PROFILE,
        )
        captures = [load_capture(side.capture) for side in traced]
    provenance: Provenance = traced[0].trace.provenance
    content = compare(traced[0].trace, captures[0], traced[1].trace, captures[1], evidence, PROFILE, provenance)
    kl, _ = finite(next(of for of in evidence.accounts if of.read_out == "kl"))
    by_name = {name: dict(zip(of.prompts, of.values, strict=True)) for name, of in content.by_prompt.items()}
    phi = dict(zip((kl.prompts + 1).tolist(), parts(kl), strict=True))
    common = sorted(set(phi).intersection(*(set(by_name[name]) for name in NAMES if name != ENDS)))
    ended = np.array(content.by_prompt["end_share_change"].values)
    return Rows(
        change=np.array([[by_name[name].get(prompt, np.nan) for name in NAMES] for prompt in common]),
        phi=np.array([phi[prompt] for prompt in common]),
        ended=max(float(np.abs(ended).mean()), FEWEST_FLIPPED),
        answers=ended.size,
    )


if __name__ == "__main__":
    sys.exit(main())
