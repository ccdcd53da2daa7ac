"""Controls that were measured: a named checkpoint and matched noise, on arrays whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from spinal.documents.evidence import NoiseDraw
from spinal.errors import FingerprintMismatch, TracesNotComparable
from spinal.profile import MeasurementProfile
from tests.support.fabricated import Pair, capture, changed_pair, trace


def other(pair: Pair, name: str = "twin") -> tuple:
    """A control with the candidate's capture under its own name."""
    made = trace(name, pair.reference.model.n_layers, pair.reference.prompt_set.count)
    return made, replace(pair.candidate_capture, trace_digest=made.digest)


def test_the_reference_as_control_leaves_the_candidates_own_scores() -> None:
    pair = changed_pair()
    result = pair.compare(control=(pair.reference, pair.reference_capture))
    contrast = result.nulls["control"].contrast
    for name in ("delta_align", "contraction_rise", "transport_fall"):
        # A score against the reference minus the reference's own, which is zero with no spread.
        assert contrast[name].value == pytest.approx(getattr(result.scores, name), rel=1e-12)
        assert contrast[name].ci == pytest.approx(result.scores.ci[name], rel=1e-9)
    assert contrast["delta_align"].significant is True
    assert result.control is not None
    assert result.control.digest == pair.reference.digest


def test_a_control_that_did_the_same_leaves_nothing() -> None:
    pair = changed_pair()
    result = pair.compare(control=other(pair))
    contrast = result.nulls["control"].contrast["delta_align"]
    assert (contrast.value, contrast.ci) == (0.0, (0.0, 0.0))
    assert any("cannot be told from that of the control" in warning for warning in result.warnings)
    assert result.nulls["control"].values == (result.scores.delta_align,)


def test_a_contrast_is_paired_over_prompts() -> None:
    pair = changed_pair(prompts=64)
    control, rows = other(pair)
    # Prompts differ by a common factor that both sides share: pairing takes it out.
    factor = np.exp(0.5 * np.random.default_rng(0).standard_normal((64, 1)))

    def scaled(one, by):  # type: ignore[no-untyped-def]  # Capture in, Capture out
        return replace(one, all=replace(one.all, transport=one.all.transport * by))

    noisy = replace(
        pair,
        reference_capture=scaled(pair.reference_capture, factor),
        candidate_capture=scaled(pair.candidate_capture, factor),
    )
    contrast = noisy.compare(control=(control, scaled(rows, factor * 1.05))).nulls["control"].contrast
    assert contrast["transport_fall"].value == pytest.approx(0.05 * (1 - 0.15), rel=0.1)
    low, high = contrast["transport_fall"].ci or (0.0, 0.0)
    assert high - low < 0.01
    assert contrast["transport_fall"].significant is True


def test_a_control_measured_otherwise_is_refused() -> None:
    pair = changed_pair()
    profile = MeasurementProfile(max_tokens=64)
    blocks, prompts = pair.reference.model.n_layers, pair.reference.prompt_set.count
    elsewhere = trace("twin", blocks, prompts, profile=profile)
    with pytest.raises(FingerprintMismatch, match="max_tokens"):
        pair.compare(control=(elsewhere, capture(elsewhere, prompts, 0)))
    with pytest.raises(TracesNotComparable, match="capture"):
        pair.compare(control=(other(pair)[0], pair.candidate_capture))


def test_two_controls_make_two_comparisons() -> None:
    pair = changed_pair()
    digests = {
        pair.compare().digest,
        pair.compare(control=other(pair)).digest,
        pair.compare(control=other(pair, "another")).digest,
    }
    assert len(digests) == 3


def noise(pair: Pair, *shifts: float) -> Pair:
    """``pair`` with noise draws whose alpha is the reference's plus a shift everywhere."""
    mine = pair.reference_capture.all
    draws = tuple(NoiseDraw(mine.alpha + shift, mine.transport) for shift in shifts)
    return replace(pair, evidence=replace(pair.evidence, noise=draws))


def test_noise_gives_a_two_sided_percentile() -> None:
    pair = changed_pair(alpha_shift=0.1, transport_factor=1.0)
    alpha = pair.reference_capture.all.alpha[1, 7:]
    result = noise(pair, 0.0, -0.01, 0.02, -0.5).compare()
    found = result.nulls["matched_noise"]
    assert found.values == pytest.approx([0.0, *(4 * s / alpha.sum() / 2 for s in (0.01, 0.02, 0.5))], abs=1e-12)
    assert found.percentile == 75.0
    assert any("random changes of the same size" in warning for warning in result.warnings)
    assert noise(pair, 0.0, 0.01).compare().nulls["matched_noise"].percentile == 100.0


def test_a_draw_that_overflowed_is_left_out_and_counted() -> None:
    pair = noise(changed_pair(), 0.0, float("nan"), 0.001)
    found = pair.compare().nulls["matched_noise"]
    assert len(found.values) == 2
    assert "1 of them gave no value" in found.note


def test_noise_of_another_pair_is_refused() -> None:
    pair = changed_pair()
    draw = NoiseDraw(pair.reference_capture.all.alpha, pair.reference_capture.all.transport[:-1])
    with pytest.raises(TracesNotComparable, match="noise draw 0"):
        replace(pair, evidence=replace(pair.evidence, noise=(draw,))).compare()
