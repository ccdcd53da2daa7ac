"""Which way a reported quantity points: up where the candidate has more, and back when the sides trade places."""

from dataclasses import replace

import numpy as np
import pytest

from spinal.analysis.damage.panel import assess
from spinal.analysis.diff import diff_traces
from spinal.documents.base import Estimate
from spinal.documents.capture import PositionsCapture
from spinal.documents.comparison import Comparison
from spinal.documents.diff import PositionDiff
from spinal.documents.trace import LayerTrace, PositionTrace, Trace
from tests.support.fabricated import Pair, capture, changed_pair, evidence, trace

BLOCKS, PROMPTS = 6, 24
MEMBERS = ("d_contraction", "d_transport", "d_transport_fixed_lens", "d_entropy")


def raised(rows: PositionsCapture, by: float) -> PositionsCapture:
    """All that is measured at a node, higher by ``by``."""
    return replace(
        rows,
        alpha=rows.alpha + by,
        transport=rows.transport + by,
        entropy=rows.entropy + by,
        effective_rank=rows.effective_rank + by,
        replicates=rows.replicates + (by if rows.replicate_kind == "groups" else 0.0),
    )


def pair_with(by: float) -> Pair:
    """A candidate that lies above its reference by ``by`` in every number."""
    reference, candidate = trace("sft", BLOCKS, PROMPTS), trace("dpo", BLOCKS, PROMPTS)
    mine = capture(reference, PROMPTS, 3)
    theirs = replace(
        mine,
        trace_digest=candidate.digest,
        last=raised(mine.last, by),
        all=raised(mine.all, by),
        nll=mine.nll + by,
    )
    return Pair(reference, mine, candidate, theirs, evidence(BLOCKS, PROMPTS))


def turned(pair: Pair) -> Pair:
    """The same pair with its sides exchanged."""
    return replace(
        pair,
        reference=pair.candidate,
        reference_capture=pair.candidate_capture,
        candidate=pair.reference,
        candidate_capture=pair.reference_capture,
    )


def independent_pair() -> Pair:
    """Two sides that share nothing: every prompt differs its own way at every node."""
    pair = pair_with(0.0)
    generator = np.random.default_rng(11)
    other = capture(pair.candidate, PROMPTS, 900)
    noisy = {
        policy: replace(
            other.at(policy),
            alpha=other.at(policy).alpha * np.exp(0.1 * generator.standard_normal((4, BLOCKS + 1))),
            effective_rank=20.0 + generator.standard_normal(BLOCKS + 1),
        )
        for policy in ("last", "all")
    }
    other = replace(other, last=noisy["last"], all=noisy["all"], nll=other.nll + generator.standard_normal(PROMPTS))
    return replace(pair, candidate_capture=other)


def signed(result: Comparison) -> dict[str, Estimate]:
    return {
        f"{member} ({policy}) at {layer.layer}": getattr(getattr(layer, member), policy)
        for layer in result.layers
        for member in MEMBERS
        for policy in ("last", "all")
    }


@pytest.mark.parametrize("by", [0.25, -0.25])
def test_a_candidate_that_has_more_has_a_positive_difference(by: float) -> None:
    result = pair_with(by).compare()
    for name, estimate in signed(result).items():
        expected = None if "transport" in name and name.endswith("at 0") else pytest.approx(by)
        assert estimate.value == expected, name
    signals = {name: signal.value for name, signal in result.damage.signals.items()}
    assert signals["nll_change"] == pytest.approx(by)
    assert signals["entropy_change"] == pytest.approx(by)
    assert signals["effective_rank_ratio"] == pytest.approx((20.0 + by) / 20.0)
    scores = result.scores
    assert np.sign(scores.contraction_rise or 0.0) == np.sign(by)
    # More transport is less of what alignment is said to do.
    assert np.sign(scores.transport_fall or 0.0) == -np.sign(by)


def test_every_difference_turns_around_with_its_sides() -> None:
    pair = independent_pair()
    there, back = pair.compare(), turned(pair).compare()
    for name, estimate in signed(there).items():
        other = signed(back)[name]
        if estimate.value is None:
            assert other.value is None
            continue
        assert estimate.value != 0.0, name
        assert other.value == pytest.approx(-estimate.value, rel=1e-9), name
        assert estimate.ci is not None
        assert other.ci == pytest.approx((-estimate.ci[1], -estimate.ci[0]), rel=1e-9), name
        assert other.significant == estimate.significant, name
    for name in ("nll_change", "entropy_change"):
        one, other_value = there.damage.signals[name].value, back.damage.signals[name].value
        assert one is not None
        assert other_value == pytest.approx(-one, rel=1e-9)
        assert one != 0.0
    ratio = there.damage.signals["effective_rank_ratio"].value
    assert ratio is not None
    assert back.damage.signals["effective_rank_ratio"].value == pytest.approx(1 / ratio)
    for name in ("contraction_rise", "transport_fall"):
        one, other_score = getattr(there.scores, name), getattr(back.scores, name)
        # Each is a share of its own reference: (b - a) / a one way, (a - b) / b the other.
        assert other_score == pytest.approx(-one / (1 + (one if name == "contraction_rise" else -one)), rel=1e-9)


def test_a_contrast_is_the_candidate_minus_the_control() -> None:
    pair = changed_pair()
    control = trace("twin", 10, 32)
    rows = replace(pair.reference_capture, trace_digest=control.digest)
    other = replace(pair, candidate=control, candidate_capture=rows)
    mine = pair.compare(control=(control, rows)).nulls["control"].contrast
    theirs = other.compare(control=(pair.candidate, pair.candidate_capture)).nulls["control"].contrast
    assert mine["delta_align"].value is not None
    assert mine["delta_align"].value > 0.0
    for name, estimate in mine.items():
        assert estimate.value is not None
        assert theirs[name].value == pytest.approx(-estimate.value, abs=1e-15), name


def test_damage_is_read_where_the_model_ends() -> None:
    """Entropy and change of the hidden state at the last node, under 'all'; ranks over T alone."""
    pair = pair_with(0.0)
    nodes = np.arange(BLOCKS + 1.0)
    mine = replace(pair.reference_capture.all, entropy=np.zeros((PROMPTS, BLOCKS + 1)), effective_rank=1.0 + nodes)
    theirs = replace(mine, entropy=np.tile(nodes, (PROMPTS, 1)), effective_rank=(1.0 + nodes) * (1.0 + (nodes > 4)))
    changed = replace(
        pair.evidence,
        hidden_change={"last": np.full((PROMPTS, BLOCKS + 1), 9.0), "all": np.tile(nodes / 10, (PROMPTS, 1))},
        block_swap=np.tile(np.arange(1.0, BLOCKS + 1), (PROMPTS, 1)),
    )
    found = assess(
        replace(pair.reference_capture, all=mine),
        replace(pair.candidate_capture, all=theirs, last=raised(mine, 50.0)),
        changed,
        3,
        (5, 6),
    )
    values = {name: signal.value for name, signal in found.signals.items()}
    assert {name: value for name, value in values.items() if value is not None} == {
        "gap": 0.0,
        "hidden_change": pytest.approx(0.6),
        "block_swap_mean": pytest.approx(3.5),
        "nll_change": 0.0,
        "nll_change_worst_tenth": 0.0,
        "entropy_change": pytest.approx(6.0),
        "effective_rank_ratio": pytest.approx(2.0),
        "non_finite": 3.0,
    }
    votes = {name for name, signal in found.signals.items() if signal.watch is not None}
    assert votes == {name for name, value in values.items() if value is not None} - {
        "entropy_change",
        "effective_rank_ratio",
    }


def lifted(document: Trace, by: float) -> Trace:
    """A trace whose numbers lie higher by ``by``; the embedding takes no step."""

    def at(position: PositionTrace) -> PositionTrace:
        windows = {
            name: fit.model_copy(update={"alpha": None if fit.alpha is None else fit.alpha + by})
            for name, fit in position.contraction_windows.items()
        }
        return position.model_copy(
            update={
                "contraction": None if position.contraction is None else position.contraction + by,
                "contraction_windows": windows,
                "transport": None if position.transport is None else position.transport + by,
                "entropy": position.entropy + by,
                "effective_rank": None if position.effective_rank is None else position.effective_rank + by,
            }
        )

    layers: tuple[LayerTrace, ...] = tuple(
        layer.model_copy(update={"positions": {name: at(position) for name, position in layer.positions.items()}})
        for layer in document.layers
    )
    return document.model_copy(update={"layers": layers})


def points(position: PositionDiff) -> dict[str, float | None]:
    return {
        "d_contraction": position.d_contraction,
        **{f"window {name}": value for name, value in position.d_contraction_windows.items()},
        "d_transport": position.d_transport,
        "d_entropy": position.d_entropy,
        "d_effective_rank": position.d_effective_rank,
    }


@pytest.mark.parametrize("by", [0.5, -0.5])
def test_point_differences_of_documents_are_candidate_minus_reference(by: float) -> None:
    one, other = trace("sft", BLOCKS, PROMPTS), lifted(trace("dpo", BLOCKS, PROMPTS), by)
    found = diff_traces(one, other)
    assert (found.reference, found.candidate) == (one.digest, other.digest)
    for layer in found.layers:
        for position in layer.positions.values():
            expected = dict.fromkeys(points(position), by)
            assert points(position) == (expected if layer.layer else expected | {"d_transport": None})
