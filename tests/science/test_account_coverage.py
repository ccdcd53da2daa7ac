"""Do the intervals of an account cover? Synthetic populations whose parts are known.

Prompts differ in size by a log-normal factor that all places share, and each part has noise of its own. Three hundred
sets know a coverage of .95 to .013; the bar is .90 to .99. The same on real prompts: ``python -m benchmarks.coverage``.
"""

from collections import defaultdict

import numpy as np
import pytest

from spinal.analysis.accounts import account
from spinal.analysis.carried import contrast
from spinal.analysis.uncertainty import draw_shares
from spinal.documents.account import Account, AccountContrast
from spinal.documents.base import Estimate
from spinal.documents.evidence import AccountEvidence

SETS, COUNT, BLOCKS, TERMINAL = 300, 64, 10, (7, 10)
PLACES = ("embeddings", *(f"block {k}" for k in range(1, BLOCKS + 1)), "read-out")
PHI = np.array([0.1, 0.8, 0.2, 0.1, -0.1, 0.05, 0.2, 0.3, 0.3, 0.4, 0.9, 0.6])
OF_CONTROL = np.array([0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.3])
SPREAD, OWN = 0.5, 0.4
SHARES = draw_shares(COUNT, 400, 0)


def drawn(generator: np.random.Generator, phi: np.ndarray, factor: np.ndarray) -> AccountEvidence:
    """Evidence of ``COUNT`` prompts whose parts have mean ``phi``, both paths noisy."""
    forward, backward = (factor * (phi + OWN * generator.standard_normal((COUNT, len(PLACES)))) for _ in range(2))
    start = np.zeros((COUNT, 1))
    return AccountEvidence(
        read_out="margin",
        places=PLACES,
        prompts=np.arange(COUNT),
        forward=np.cumsum(np.concatenate([start, forward], axis=1), axis=1),
        backward=np.cumsum(np.concatenate([start, backward[:, ::-1]], axis=1), axis=1)[:, ::-1],
        identical=np.zeros(len(PLACES), dtype=bool),
    )


@pytest.fixture(scope="module")
def found() -> list[tuple[Account, AccountContrast]]:
    generator, made = np.random.default_rng(21), []
    for _ in range(SETS):
        factor = np.exp(SPREAD * generator.standard_normal((COUNT, 1)) - SPREAD**2 / 2)
        mine, control = (drawn(generator, phi, factor) for phi in (PHI, OF_CONTROL))
        against = contrast(mine, control, SHARES)
        assert against is not None
        made.append((account(mine, SHARES, TERMINAL), against))
    return made


def covered(estimates: list[Estimate], truth: float) -> float:
    intervals = [one.ci for one in estimates if one.ci]
    assert len(intervals) == SETS
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def test_parts_shares_and_total_cover(found: list[tuple[Account, AccountContrast]]) -> None:
    rates: dict[str, list[float]] = defaultdict(list)
    for k in range(len(PLACES)):
        rates["parts"].append(covered([of.places[k].phi for of, _ in found], PHI[k]))
        rates["shares"].append(covered([of.places[k].share for of, _ in found], PHI[k] / PHI.sum()))
    rates["total"].append(covered([of.total for of, _ in found], PHI.sum()))
    share = PHI[7:11].sum() / PHI[1:11].sum()
    rates["terminal share"].append(covered([of.blocks_terminal_share for of, _ in found], share))
    # Of a dozen places the one that covers least is two standard errors below.
    assert all(0.90 <= np.mean(found) <= 0.99 and min(found) >= 0.88 for found in rates.values()), dict(rates)


def test_candidate_minus_control_covers(found: list[tuple[Account, AccountContrast]]) -> None:
    apart = PHI - OF_CONTROL
    assert 0.90 <= covered([of.total for _, of in found], apart.sum()) <= 0.99
    rates = [covered([of.places[place] for _, of in found], apart[k]) for k, place in enumerate(PLACES)]
    assert 0.90 <= np.mean(rates) <= 0.99
    assert all(of.total.significant for _, of in found)


@pytest.mark.parametrize("member", ["center", "terminal_share"])
def test_the_place_of_what_goes_the_total_s_way_covers(
    found: list[tuple[Account, AccountContrast]], member: str
) -> None:
    weights = np.maximum(PHI[1:11], 0.0)
    depth = np.arange(1, BLOCKS + 1) / BLOCKS
    truth = {"center": weights @ depth / weights.sum(), "terminal_share": weights[6:].sum() / weights.sum()}[member]
    intervals = [of.localization.ci[member] for of, _ in found if of.localization is not None]
    assert len(intervals) == SETS
    # Clipping is one-sided, and its interval may be wide: never too short.
    assert np.mean([low <= truth <= high for low, high in intervals]) >= 0.90


def test_flags_alarm_where_nothing_changed_no_more_often_than_they_say() -> None:
    generator, alarms = np.random.default_rng(22), 0
    for _ in range(SETS):
        factor = np.exp(SPREAD * generator.standard_normal((COUNT, 1)))
        of = account(drawn(generator, np.zeros(len(PLACES)), factor), SHARES, TERMINAL)
        alarms += any(place.phi.significant for place in of.places)
    # Nominal .05 over all places together; three hundred sets scatter by .013.
    assert alarms / SETS <= 0.11
