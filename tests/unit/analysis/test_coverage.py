"""Do nominal 95% intervals cover? Four hundred synthetic audits whose population values are known.

Each set draws prompts from one population: steps, gaps and block swaps with a common factor per prompt (prompts differ
in kind) and own noise, and alphas whose sampling error is the mean of their influences. Four hundred sets scatter a
coverage of .95 by .011; the bar is .90 to .99.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from spinal.analysis.localization import localize, terminal_window
from spinal.analysis.scores import strength, terminal_nodes
from spinal.documents.capture import Capture, PositionsCapture
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.profile import MeasurementProfile
from tests.support.fabricated import Pair, capture, evidence, trace

pytestmark = pytest.mark.slow
Array = np.ndarray
SETS, PROMPTS, BLOCKS = 400, 96, 20
PROFILE = MeasurementProfile(bootstrap_draws=500)
NODES = np.arange(BLOCKS + 1)
SPREAD = 0.4
"""Standard deviation of the log of a prompt's factor, which acts on all its nodes and on all sides."""
OWN = 0.1
"""Standard deviation of the log of what each single value has of its own."""
# Drawn from: a candidate that contracts more and steps shorter from block 12 on, and a control that does less.
ALPHA = {
    "reference": 0.9 + 0.3 * (NODES / BLOCKS) ** 2,
    "candidate": 0.9 + 0.3 * (NODES / BLOCKS) ** 2 + 0.06 * (NODES >= 12),
    "control": 0.9 + 0.3 * (NODES / BLOCKS) ** 2 + 0.03 * (NODES >= 12),
}
STEP = {
    "reference": 0.5 - 0.2 * NODES / BLOCKS,
    "candidate": (0.5 - 0.2 * NODES / BLOCKS) * np.where(NODES >= 12, 0.9, 1.0),
    "control": (0.5 - 0.2 * NODES / BLOCKS) * np.where(NODES >= 12, 0.97, 1.0),
}
SWAP = 0.02 + 0.2 * np.exp(-0.5 * ((NODES[1:] - 15) / 2.0) ** 2)
GAP = np.concatenate([[0.0], np.cumsum(SWAP)])
MEAN = np.exp((SPREAD**2 + OWN**2) / 2)
"""Mean of the product of both log-normal factors."""


def around(generator: np.random.Generator, center: Array, common: Array) -> Array:
    """(P, len(center)) positive values with that mean: the prompt's factor times own noise."""
    own = np.exp(OWN * generator.standard_normal((PROMPTS, center.size)))
    return np.asarray(center * common * own / MEAN)


def side(generator: np.random.Generator, known: Trace, name: str, common: Array, shared: Array) -> Capture:
    """A capture drawn from the population ``name``; ``shared`` is the part of the influences that all sides share."""
    made = capture(known, PROMPTS, 0)
    influence = shared + 0.05 * generator.standard_normal(shared.shape)
    alpha = ALPHA[name] + influence.mean(axis=-1)
    steps = around(generator, STEP[name], common)
    steps[:, 0] = np.nan
    part: PositionsCapture = replace(
        made.all, transport=steps, alpha=alpha, replicates=influence - influence.mean(axis=-1, keepdims=True)
    )
    return replace(made, all=part)


def audits() -> Iterator[Comparison]:
    generator = np.random.default_rng(11)
    traces = {name: trace(name, BLOCKS, PROMPTS, profile=PROFILE) for name in ALPHA}
    for _ in range(SETS):
        common = np.exp(SPREAD * generator.standard_normal((PROMPTS, 1)))
        shared = 0.5 * generator.standard_normal((4, 1, PROMPTS)) + 0.05 * generator.standard_normal(
            (4, BLOCKS + 1, PROMPTS)
        )
        sides = {name: side(generator, known, name, common, shared) for name, known in traces.items()}
        gap = around(generator, GAP, common)
        found = replace(
            evidence(BLOCKS, PROMPTS),
            block_swap=around(generator, SWAP, common),
            weight_change=SWAP,
            function_gap={"last": gap, "all": gap},
        )
        pair = Pair(traces["reference"], sides["reference"], traces["candidate"], sides["candidate"], found, PROFILE)
        yield pair.compare(control=(traces["control"], sides["control"]))


@pytest.fixture(scope="module")
def results() -> list[Comparison]:
    return list(audits())


def coverage(intervals: list[tuple[float, float]], truth: float) -> float:
    assert len(intervals) >= 150
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def population(name: str, score: str) -> float:
    window = terminal_window(BLOCKS, 0.7)
    alpha = (ALPHA["reference"][None], ALPHA[name][None])
    steps = (STEP["reference"][None], STEP[name][None])
    return float(strength(alpha, steps, terminal_nodes(window), BLOCKS)[score][0])


@pytest.mark.parametrize("score", ["delta_align", "contraction_rise", "transport_fall"])
def test_scores_cover(results: list[Comparison], score: str) -> None:
    intervals = [result.scores.ci[score] for result in results]
    assert 0.90 <= coverage(intervals, population("candidate", score)) <= 0.99


@pytest.mark.parametrize("score", ["delta_align", "contraction_rise", "transport_fall"])
def test_contrasts_with_a_control_cover_and_are_shorter_than_unpaired_ones(
    results: list[Comparison], score: str
) -> None:
    contrasts = [result.nulls["control"].contrast[score] for result in results]
    truth = population("candidate", score) - population("control", score)
    assert 0.90 <= coverage([one.ci for one in contrasts if one.ci], truth) <= 0.99
    own = np.mean([np.subtract(*result.scores.ci[score][::-1]) for result in results])
    paired = np.mean([np.subtract(*one.ci[::-1]) for one in contrasts if one.ci])
    assert paired < np.sqrt(2) * own


@pytest.mark.parametrize("score", ["coherence", "coherence_reference"])
def test_coherence_is_never_missed_often(results: list[Comparison], score: str) -> None:
    """Noise lengthens an arc, so the interval is wide towards 1: it may cover too often, never too rarely."""
    assert coverage([result.scores.ci[score] for result in results], population("candidate", score)) >= 0.90


def test_the_footprint_covers(results: list[Comparison]) -> None:
    share = localize(SWAP, None, terminal_window(BLOCKS, 0.7)).terminal_share
    assert share is not None
    assert 0.90 <= coverage([result.scores.ci["footprint"] for result in results], share) <= 0.99


@pytest.mark.parametrize("member", ["center", "spread", "terminal_share", "gini", "effective_blocks"])
def test_the_place_of_block_swap_covers(results: list[Comparison], member: str) -> None:
    truth = getattr(localize(SWAP, None, terminal_window(BLOCKS, 0.7)), member)
    intervals = [result.localization["block_swap"].ci[member] for result in results]
    assert 0.90 <= coverage(intervals, truth) <= 0.99


@pytest.mark.parametrize("member", ["center", "terminal_share"])
@pytest.mark.parametrize("profile", ["d_contraction", "d_transport", "function"])
def test_the_place_of_thresholded_profiles_covers(results: list[Comparison], profile: str, member: str) -> None:
    """Clipped differences have intervals for centre and terminal share alone; both may be too wide, not too short."""
    steps = np.abs(STEP["candidate"] - STEP["reference"])[1:]
    steps[0] = 0.0
    known = {"d_contraction": np.abs(ALPHA["candidate"] - ALPHA["reference"])[1:], "d_transport": steps}
    places = [result.localization[profile] for result in results]
    truth = getattr(localize(known.get(profile, SWAP), None, terminal_window(BLOCKS, 0.7)), member)
    assert {tuple(sorted(place.ci)) for place in places} == {("center", "terminal_share")}
    assert coverage([place.ci[member] for place in places], truth) >= 0.90


@pytest.mark.parametrize("layer", [2, 12, 20])
@pytest.mark.parametrize("member", ["d_contraction", "d_transport", "function_gap", "block_swap"])
def test_layers_cover(results: list[Comparison], layer: int, member: str) -> None:
    truth = {
        "d_contraction": ALPHA["candidate"] - ALPHA["reference"],
        "d_transport": STEP["candidate"] - STEP["reference"],
        "function_gap": GAP,
        "block_swap": np.concatenate([[0.0], SWAP]),
    }[member][layer]
    found = [getattr(result.layers[layer], member) for result in results]
    estimates = [one if member == "block_swap" else one.all for one in found]
    assert 0.90 <= coverage([one.ci for one in estimates if one.ci], float(truth)) <= 0.99


def test_the_minimum_detectable_effect_is_found_with_the_stated_power(results: list[Comparison]) -> None:
    """An effect of 2.8 SE is beyond 1.96 SE of zero in 80% of the sets."""
    found = [result.scores for result in results]
    se = float(np.std([score.delta_align for score in found if score.delta_align is not None], ddof=1))
    mde = float(np.mean([score.mde["delta_align"] for score in found]))
    assert mde == pytest.approx(2.8 * se, rel=0.15)
