"""The default policy, rule by rule: what it decides and what it says about why."""

from typing import Any

import numpy as np
import pytest

from spinal.analysis.localization import localize
from spinal.documents.comparison import Damage, DamageSignal, Localization, Verdict
from spinal.policy.decide import decide
from spinal.policy.rules import Facts

HIDDEN = DamageSignal(value=0.5, watch=0.4, damaged=0.8, level="watch", unit="of ||r_D||")
SWAP = DamageSignal(value=0.75, watch=0.25, damaged=0.4, level="damaged", unit="of an update")
QUIET = DamageSignal(value=0.1, watch=0.3, damaged=1.0, level="none", unit="nats/token")
UNKNOWN = DamageSignal(value=None, watch=0.3, damaged=1.0, level=None, unit="nats/token", reason="not_measured")
SHOWN = DamageSignal(value=9.0, watch=None, damaged=None, level=None, unit="nats")
SHOWN_UNKNOWN = DamageSignal(value=None, watch=None, damaged=None, level=None, unit="nats", reason="not_measured")

LATE = localize(np.array([0.0, 0.0, 3.0, 1.0]), None, (3, 4))
NOWHERE = localize(np.zeros(4), None, (3, 4))
SEEN = {
    "hidden_change": "hidden_change = 0.5 of ||r_D|| is at 'watch'",
    "block_swap_mean": "block_swap_mean = 0.75 of an update is at 'damaged'",
    "nll_change": "nll_change could not be measured (not_measured), so damage cannot be ruled out",
    "where": "80% of the change in what blocks compute sits in blocks 3-4 (shown, not judged)",
}


def verdict(level: str, place: Localization = LATE, *, identical: bool = False, **signals: DamageSignal) -> Verdict:
    return decide(Facts(Damage(level=level, signals=signals, calibration=""), {"block_swap": place}, identical))


def said(*names: str) -> tuple[str, ...]:
    return tuple(SEEN[name] for name in names)


def test_a_damaged_candidate_fails_even_where_a_signal_is_unknown() -> None:
    nothing_else: dict[str, Any] = {}
    for unknown in (nothing_else, {"nll_change": UNKNOWN}):
        found = verdict("damaged", hidden_change=HIDDEN, block_swap_mean=SWAP, **unknown)
        assert found.outcome == "fail"
        assert found.reasons == (
            "the candidate looks damaged",
            *said("hidden_change", "block_swap_mean", "where"),
        )


def test_what_could_not_be_measured_is_no_pass() -> None:
    found = verdict("none", hidden_change=QUIET, nll_change=UNKNOWN)
    assert found.outcome == "inconclusive"
    assert found.reasons == said("nll_change", "where")


def test_what_was_raised_is_said_beside_what_could_not_be_measured() -> None:
    found = verdict("watch", hidden_change=HIDDEN, nll_change=UNKNOWN)
    assert found.outcome == "inconclusive"
    assert found.reasons == said("nll_change", "hidden_change", "where")


def test_a_watched_candidate_is_warned_about() -> None:
    found = verdict("watch", hidden_change=HIDDEN, nll_change=QUIET)
    assert found.outcome == "warn"
    assert found.reasons == ("a damage signal is raised", *said("hidden_change", "where"))


def test_a_quiet_panel_passes_whatever_its_shown_signals_are() -> None:
    for shown in (SHOWN, SHOWN_UNKNOWN):
        found = verdict("none", nll_change=QUIET, entropy_change=shown)
        assert found.outcome == "pass"
        assert found.policy == "spinal-default/1"
        assert found.reasons == ("the damage panel is quiet", *said("where"))


@pytest.mark.parametrize("level", ["none", "watch", "damaged"])
def test_a_signature_is_said_and_never_judged(level: str) -> None:
    outcomes = {verdict(level, place).outcome for place in (LATE, NOWHERE)}
    assert len(outcomes) == 1
    assert verdict(level, LATE).reasons[-1] == SEEN["where"]
    assert verdict(level, NOWHERE).reasons[-1] == "no block computes anything else than in the reference"
    same = verdict(level, NOWHERE, identical=True).reasons[-1]
    assert same == "both sides hold the same weights: there is no change to place"
