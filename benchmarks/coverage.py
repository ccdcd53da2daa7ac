"""Do 95% intervals cover, on real prompts? ``python -m benchmarks.coverage``.

Measures ``sft``, ``dpo-short`` and ``sft-twin`` once, on all prompts of two built-in sets, and takes these for finite
populations: what is true of a pair is what all their prompts give. Then draws many subsamples without replacement,
asks the analysis for its intervals, and counts how many hold the truth, and how wide they are beside the value's
spread. A subsample of n among N prompts scatters by sqrt(1 - n / N) of what n prompts out of very many would, so
every interval is drawn together by that factor around its value. Exits with 1 where less than .90 or more than .99 of
the intervals of one kind cover. Deterministic.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from spinal.analysis.accounts import account
from spinal.analysis.carried import contrast
from spinal.analysis.localization import localize, terminal_window
from spinal.analysis.locators.profile import increments, nonnegative, signed_means
from spinal.analysis.uncertainty import alpha_estimates, draw_shares, mean_estimates
from spinal.audit import Ports, TemporaryCaptures, trace_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.account import Account
from spinal.documents.base import Estimate
from spinal.documents.capture import ROWS_KEY, Capture, load_capture
from spinal.documents.evidence import AccountEvidence, PairEvidence
from spinal.documents.localization import Localization
from spinal.documents.trace import WINDOWS
from spinal.engine.contraction import node_spectrum, split_prompts
from spinal.engine.pair import gather_accounts, gather_evidence
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
ROOT = Path(__file__).resolve().parents[1]
PROMPTS, PAIRS = "hh-harmless-512", "hh-shorter-256"
DRAWN = (64, 128)
DRAWS = 500
SUBSAMPLES = 400
"""They know a coverage of .95 to .011."""
SPECTRA, NODES = 100, (6, 12, 18, 24)
"""Spectra are taken of fewer subsamples and at a few nodes: pooled over these they know a coverage to .011, too."""
LOW, HIGH = 0.90, 0.99
PROFILE = MeasurementProfile(
    name="spinal/1",
    max_tokens=96,
    swap_prompts=512,
    stitch_prompts=512,
    stitch_tokens=16,
    pair_tokens=96,
    continuation_prompts=512,
)
"""Short texts: what their length makes of an interval is not asked, and accounts of every prompt are most of the work.
"""


@dataclass(frozen=True)
class Interval:
    """An interval around a value, from a subsample."""

    value: float
    low: float
    high: float

    def covers(self, truth: float, fraction: float) -> bool:
        """Whether ``truth`` lies within, once a subsample of that ``fraction`` of the population is allowed for."""
        factor = np.sqrt(1 - fraction)
        # Rounding of sums in another order.
        slack = 1e-12 * abs(self.value)
        low, high = (self.value + factor * (end - self.value) for end in (self.low, self.high))
        return bool(low - slack <= truth <= high + slack)


Intervals = dict[str, list[Interval | None]]
"""By kind; of each member of it (places, nodes), None where it has no interval or never varies."""
Truths = dict[str, list[float]]
"""The same of the population; NaN where a member has no value."""


@dataclass(frozen=True)
class Study:
    """A population and what is asked of its subsamples."""

    count: int
    drawn: tuple[int, ...]
    subsamples: int
    truths: Truths
    intervals: Callable[[IntArray], Intervals]


def main() -> int:
    sys.path.insert(0, str(ROOT / "examples"))
    from history_checkpoints import rebuild

    with tempfile.TemporaryDirectory(prefix="spinal-coverage-") as temporary:
        folder = Path(temporary)
        names = ("sft", "dpo-short", "sft-twin")
        sides = {name: resolve_reference(str(rebuild(name, folder)), roots=None) for name in names}
        ports = Ports(captures=TemporaryCaptures(folder))
        prompts, pairs = builtin_prompts(PROMPTS), builtin_prompts(PAIRS)
        traced = [trace_checkpoint(sides[name], prompts, PROFILE, ports=ports) for name in names[:2]]
        evidence = gather_evidence(
            sides["sft"],
            sides["dpo-short"],
            reference_capture=traced[0].capture,
            candidate_capture=traced[1].capture,
            prompts=prompts,
            profile=PROFILE,
        )
        accounts = {
            name: gather_accounts(sides["sft"], sides[name], prompts=pairs, profile=PROFILE) for name in names[1:]
        }
        captures = [load_capture(side.capture) for side in traced]
        rows = [_rows(side.capture) for side in traced]
    terminal = terminal_window(traced[0].trace.model.n_layers, PROFILE.terminal_fraction)
    studies = [
        means_study(captures[0], captures[1], evidence, terminal),
        accounts_study(evidence.accounts, None, terminal, DRAWN),
        accounts_study(accounts["dpo-short"], accounts["sft-twin"], terminal, DRAWN[:1]),
        alpha_study(captures[0], rows),
    ]
    return report(studies)


def report(studies: Sequence[Study]) -> int:
    """Prints a line for each kind of interval; 1 where one covers too rarely or too often."""
    print(
        f"{'interval':58} {'n of N':>11} {'intervals':>9} {'coverage':>8} {'lowest':>7} {'width/spread':>12}",
        flush=True,
    )
    outside = []
    for study in studies:
        for n in study.drawn:
            for kind, found in coverage(study, n).items():
                wrong = not LOW <= found.share <= HIGH
                print(
                    f"{kind:58} {f'{n} of {study.count}':>11} {found.count:9} {found.share:8.3f} {found.lowest:7.3f}"
                    f" {found.width:12.2f}" + (" outside" if wrong else ""),
                    flush=True,
                )
                outside += [f"{kind} ({n})"] if wrong else []
    print(f"outside {LOW:.2f}-{HIGH:.2f}: {', '.join(outside) or 'none'}")
    return 1 if outside else 0


@dataclass
class Tried:
    """What a member's intervals did, one entry for each subsample that had one."""

    hits: list[bool] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    half_widths: list[float] = field(default_factory=list)

    def width(self, fraction: float) -> float:
        """Mean half-width over 1.96 standard deviations of the value, as subsamples of that ``fraction`` of the
        population scatter once it is corrected for: 1 where intervals are as wide as the error is; NaN where nothing
        scatters."""
        spread = 1.96 * float(np.std(self.values, ddof=1)) / float(np.sqrt(1 - fraction))
        return float(np.mean(self.half_widths)) / spread if spread > 0.0 else float("nan")


@dataclass(frozen=True)
class Covered:
    """What became of the intervals of one kind."""

    count: int
    share: float
    """Of all intervals, those that hold the truth."""
    lowest: float
    """The same of the member that covers least."""
    width: float
    """Mean over members of half-width over spread."""


def coverage(study: Study, n: int) -> dict[str, Covered]:
    """By kind of interval, over subsamples of ``n`` prompts; members with too few intervals are left out of all but the
    count and the share."""
    generator = np.random.default_rng([n, study.count])
    tried: dict[str, dict[int, Tried]] = {}
    fraction = n / study.count
    for _ in range(study.subsamples):
        chosen = np.sort(generator.choice(study.count, n, replace=False))
        for kind, members in study.intervals(chosen).items():
            for member, (interval, truth) in enumerate(zip(members, study.truths[kind], strict=True)):
                if interval is not None and np.isfinite(truth):
                    of = tried.setdefault(kind, {}).setdefault(member, Tried())
                    of.hits.append(interval.covers(truth, fraction))
                    of.values.append(interval.value)
                    of.half_widths.append((interval.high - interval.low) / 2)
    found = {}
    for kind, members_tried in tried.items():
        enough = [of for of in members_tried.values() if len(of.hits) >= study.subsamples / 4]
        if enough:
            every = [hit for of in members_tried.values() for hit in of.hits]
            found[kind] = Covered(
                len(every),
                float(np.mean(every)),
                min(float(np.mean(of.hits)) for of in enough),
                float(np.nanmean([of.width(fraction) for of in enough])),
            )
    return found


def means_study(reference: Capture, candidate: Capture, evidence: PairEvidence, terminal: tuple[int, int]) -> Study:
    """Means over prompts, and the places of profiles made of them."""
    steps = (candidate.all.transport - reference.all.transport)[:, 2:]
    gap, swap = evidence.function_gap["all"], evidence.block_swap
    assert np.array_equal(reference.nll_prompts, candidate.nll_prompts)
    means = {
        "change of L": steps,
        "change of entropy": candidate.all.entropy - reference.all.entropy,
        "function gap": gap,
        "block swap": swap,
        "damage: change of NLL": (candidate.nll - reference.nll)[:, None],
        "damage: gap at D": gap[:, -1:],
        "damage: hidden change": evidence.hidden_change["all"][:, -1:],
        "damage: mean block swap": swap.mean(axis=1, keepdims=True),
    }
    if evidence.top_changed is not None:
        means["damage: share of most likely tokens that change"] = evidence.top_changed[:, None]
    # The first step is saturated: it has no weight, as in the locator.
    places = {
        "|d L|": (signed_means, np.concatenate([np.zeros((len(steps), 1)), steps], axis=1)),
        "function": (increments, gap),
        "block swap": (nonnegative, swap),
    }
    count = len(swap)

    def placed(chosen: IntArray, shares: Array) -> dict[str, Localization]:
        made = {name: weigh(values[chosen], shares) for name, (weigh, values) in places.items()}
        return {
            name: localize(p.weights, p.replicates, terminal, absent=p.absent, clipped=p.clipped, plain=p.plain)
            for name, p in made.items()
        }

    def intervals(chosen: IntArray) -> Intervals:
        shares = draw_shares(len(chosen), DRAWS, PROFILE.seed)
        found: Intervals = {
            name: [
                _interval(one)
                for one in mean_estimates(values[chosen], shares, reasons=["unmeasured"] * values.shape[1], test=False)
            ]
            for name, values in means.items()
        }
        for name, where in placed(chosen, shares).items():
            for member in MEMBERS:
                found[f"{member} of {name}"] = [_place_interval(where, member)]
        return found

    truths = {name: values.mean(axis=0).tolist() for name, values in means.items()}
    for name, (_, values) in places.items():
        # What every prompt together says has no error to threshold it by.
        whole = np.diff(values.mean(axis=0)).clip(0) if name == "function" else np.abs(values.mean(axis=0))
        where = localize(whole, None, terminal)
        truths |= {f"{member} of {name}": [_member(where, member)] for member in MEMBERS}
    return Study(count, DRAWN, SUBSAMPLES, truths, intervals)


MEMBERS = ("center", "terminal_share")


def accounts_study(
    accounts: Sequence[AccountEvidence],
    control: Sequence[AccountEvidence] | None,
    terminal: tuple[int, int],
    drawn: tuple[int, ...],
) -> Study:
    """Accounts, and what a control's leave of them."""
    given = {of.read_out: of for of in accounts if of.absent is None}
    others = {of.read_out: of for of in control or () if of.absent is None}
    count = min(len(of.prompts) for of in given.values())
    for name in given.keys() & others.keys():
        assert np.array_equal(given[name].prompts, others[name].prompts)

    def told(chosen: IntArray) -> tuple[dict[str, Account], dict[str, list[Estimate]]]:
        shares = draw_shares(len(chosen), DRAWS, PROFILE.seed)
        mine = {read_out: _part(of, chosen) for read_out, of in given.items()}
        contrasts = {
            read_out: contrast(of, _part(others[read_out], chosen), shares)
            for read_out, of in mine.items()
            if read_out in others
        }
        return (
            {read_out: account(of, shares, terminal) for read_out, of in mine.items()},
            {read_out: [c.total, *c.places.values()] for read_out, c in contrasts.items() if c is not None},
        )

    def members(chosen: IntArray) -> dict[str, list[Estimate | tuple[Localization | None, str]]]:
        found: dict[str, list[Estimate | tuple[Localization | None, str]]] = {}
        own, contrasts = told(chosen)
        for name, of in own.items():
            found[f"{name}: parts"] = [place.phi for place in of.places]
            found[f"{name}: shares"] = [place.share for place in of.places]
            found[f"{name}: total"] = [of.total]
            found[f"{name}: terminal share of the blocks' sum"] = [of.blocks_terminal_share]
            for member in MEMBERS:
                found[f"{name}: {member} of what goes its way"] = [(of.localization, member)]
        for name, (total, *places) in contrasts.items():
            found[f"{name}: total, candidate minus control"] = [total]
            found[f"{name}: parts, candidate minus control"] = [*places]
        return found

    def intervals(chosen: IntArray) -> Intervals:
        return {
            kind: [_interval(one) if isinstance(one, Estimate) else _place_interval(*one) for one in ones]
            for kind, ones in members(chosen).items()
        }

    truths = {
        kind: [_value(one.value) if isinstance(one, Estimate) else _member(*one) for one in ones]
        for kind, ones in members(np.arange(count)).items()
    }
    return Study(count, drawn, SUBSAMPLES, truths, intervals)


def alpha_study(reference: Capture, rows: Sequence[Array]) -> Study:
    """Differences of alpha under both default windows, from spectra of the subsample's own rows."""
    inside = np.flatnonzero(reference.row_in_all)
    owner = reference.row_prompt[inside]
    count = int(owner.max()) + 1
    of_prompt = [inside[owner == prompt] for prompt in range(count)]
    windows = {name: WINDOWS.index(name) for name in ("bulk", "body")}

    def differences(chosen: IntArray) -> dict[str, tuple[Array, Array]]:
        held = np.concatenate([of_prompt[prompt] for prompt in chosen])
        prompt = torch.from_numpy(np.repeat(np.arange(len(chosen)), [len(of_prompt[one]) for one in chosen]))
        split = split_prompts(len(chosen), PROFILE.jackknife_groups)
        found = []
        for node in NODES:
            before, after = (
                node_spectrum(torch.from_numpy(side[node][held]), prompt, len(chosen), split, PROFILE) for side in rows
            )
            change = [_value(after.fits[w].alpha) - _value(before.fits[w].alpha) for w in windows]
            found.append((change, [(after.replicates - before.replicates)[w] for w in windows.values()]))
        return {
            name: (np.array([one[0][i] for one in found]), np.stack([one[1][i] for one in found]))
            for i, name in enumerate(windows)
        }

    def intervals(chosen: IntArray) -> Intervals:
        shares = draw_shares(len(chosen), DRAWS, PROFILE.seed)
        return {
            f"change of alpha, window '{name}'": [
                _interval(one)
                for one in alpha_estimates(
                    values, replicates, "influence", shares, PROFILE.seed, reasons=["unmeasured"] * len(NODES)
                )
            ]
            for name, (values, replicates) in differences(chosen).items()
        }

    whole = differences(np.arange(count))
    truths = {f"change of alpha, window '{name}'": values.tolist() for name, (values, _) in whole.items()}
    return Study(count, DRAWN, SPECTRA, truths, intervals)


def _part(evidence: AccountEvidence, chosen: IntArray) -> AccountEvidence:
    """Evidence over the prompts at ``chosen`` places, numbered anew as the draws of a subsample are."""
    forward, backward = evidence.forward[chosen], evidence.backward[chosen]
    return replace(evidence, prompts=np.arange(len(chosen)), forward=forward, backward=backward)


def _rows(capture: Path) -> Array:
    """(N, K, d) residuals of a capture."""
    with safe_open(capture, framework="numpy") as file:
        return np.asarray(file.get_tensor(ROWS_KEY))


def _interval(estimate: Estimate) -> Interval | None:
    if estimate.value is None or estimate.ci is None or estimate.ci[0] == estimate.ci[1]:
        return None
    return Interval(estimate.value, *estimate.ci)


def _place_interval(where: Localization | None, member: str) -> Interval | None:
    if where is None or member not in where.ci:
        return None
    return Interval(_member(where, member), *where.ci[member])


def _member(where: Localization | None, member: str) -> float:
    return float("nan") if where is None else _value(getattr(where, member))


def _value(value: float | None) -> float:
    return float("nan") if value is None else value


if __name__ == "__main__":
    sys.exit(main())
