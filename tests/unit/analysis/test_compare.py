"""compare(): what must hold of every result, and what it refuses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spinal.analysis.compare import comparison_digest
from spinal.analysis.diff import diff_traces
from spinal.analysis.locators import LOCATORS
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, LayerComparison
from spinal.errors import FingerprintMismatch, TracesNotComparable
from spinal.profile import MeasurementProfile
from tests.support.fabricated import PROFILE, changed_pair, evidence, identical_pair, sha, trace


def estimates(layer: LayerComparison) -> dict[str, Estimate]:
    found = {"block_swap": layer.block_swap, "block_swap_transport": layer.block_swap_transport}
    for member in ("d_contraction", "d_transport", "d_transport_fixed_lens", "d_entropy", "function_gap"):
        for policy in ("last", "all"):
            found[f"{member}.{policy}"] = getattr(getattr(layer, member), policy)
    return found


@pytest.mark.parametrize("kind", ["influence", "groups"])
def test_a_checkpoint_against_itself_is_exactly_zero(kind: str) -> None:
    result = identical_pair(kind=kind).compare()
    assert result.identical
    for layer in result.layers:
        for name, estimate in estimates(layer).items():
            if estimate.value is None:
                assert layer.layer == 0, name
                assert estimate.reason, name
            else:
                assert estimate.value == 0.0, name
                assert estimate.ci == (0.0, 0.0), name
                assert not estimate.significant, name
    assert set(result.localization) == set(LOCATORS)
    for place in result.localization.values():
        assert place.center is None
        assert place.peak is None
        assert place.reason == "no_detectable_change"
    assert result.scores.delta_align == 0.0
    assert result.scores.ci["delta_align"] == (0.0, 0.0)
    assert result.scores.coherence == result.scores.coherence_reference
    assert result.scores.spinal_score is None
    assert result.scores.reasons["spinal_score"]
    assert result.damage.level == "none"
    assert result.verdict.outcome == "pass"


@pytest.mark.parametrize("kind", ["influence", "groups"])
def test_a_result_survives_json_unchanged(kind: str) -> None:
    result = changed_pair(kind=kind).compare()
    assert Comparison.model_validate_json(result.model_dump_json()) == result


def test_the_same_inputs_give_the_same_bytes() -> None:
    assert changed_pair().compare().model_dump_json() == changed_pair().compare().model_dump_json()


def test_scores_are_those_of_the_definition() -> None:
    pair = changed_pair(alpha_shift=0.1, transport_factor=0.8)
    scores = pair.compare().scores
    # D = 10: T = {7..10}; nodes 8..10 were shifted by 0.1 and scaled by 0.8.
    alpha = pair.reference_capture.all.alpha[1, 7:]
    steps = pair.reference_capture.all.transport[:, 7:].mean(axis=0)
    rise = 0.3 / alpha.sum()
    fall = 0.2 * steps[1:].sum() / steps.sum()
    assert scores.terminal_window == (7, 10)
    assert scores.contraction_rise == pytest.approx(rise, rel=1e-12)
    assert scores.transport_fall == pytest.approx(fall, rel=1e-12)
    assert scores.delta_align == pytest.approx((rise + fall) / 2, rel=1e-12)
    assert scores.footprint == pytest.approx(1.0)
    parts = [scores.delta_align, scores.coherence, scores.footprint]
    assert scores.spinal_score == pytest.approx(sum(part for part in parts if part is not None) / 3)
    assert None not in parts
    for name in ("delta_align", "contraction_rise", "transport_fall", "coherence", "spinal_score"):
        low, high = scores.ci[name]
        assert low < getattr(scores, name) < high
        assert scores.mde[name] > 0.0


def test_a_contraction_that_falls_is_reported_with_its_sign() -> None:
    scores = changed_pair(alpha_shift=-0.1).compare().scores
    assert scores.contraction_rise is not None
    assert scores.contraction_rise < 0.0


def test_localization_and_flags_name_the_changed_blocks() -> None:
    result = changed_pair(first=8).compare()
    for name in ("block_swap", "weights", "block_swap_transport", "d_transport", "function"):
        place = result.localization[name]
        assert place.window80 == (8, 10), name
        assert place.terminal_share == pytest.approx(1.0), name
        assert place.terminal_share_null == pytest.approx(0.4)
    flagged = [layer.layer for layer in result.layers if layer.d_transport.all.significant]
    assert flagged == [8, 9, 10]
    assert any("nothing earlier moved" in warning for warning in result.warnings)


def test_the_saturated_first_step_never_enters_the_transport_profile() -> None:
    pair = changed_pair(first=1)
    place = pair.compare().localization["d_transport"]
    assert place.window80 is not None
    assert place.window80[0] >= 2


def test_without_a_control_the_result_says_what_it_cannot_tell() -> None:
    pair = changed_pair()
    assert any("ordinary fine-tuning" in warning for warning in pair.compare().warnings)
    result = pair.compare(control=(pair.reference, pair.reference_capture))
    assert not any("ordinary fine-tuning" in warning for warning in result.warnings)


def test_windows_that_disagree_are_said_to() -> None:
    pair = changed_pair()
    alpha = pair.candidate_capture.all.alpha.copy()
    alpha[3, 9] -= 0.5
    changed = replace(pair.candidate_capture, all=replace(pair.candidate_capture.all, alpha=alpha))
    result = replace(pair, candidate_capture=changed).compare()
    assert result.layers[9].d_contraction.window_agreement["all"] is False
    assert result.layers[8].d_contraction.window_agreement["all"] is True
    assert any("depends on the fit window at 1 of 11 nodes" in warning for warning in result.warnings)


def test_missing_contraction_is_null_with_the_reason_of_the_trace() -> None:
    pair = changed_pair()
    layers = list(pair.reference.layers)
    position = (
        layers[10].positions["all"].model_copy(update={"contraction": None, "contraction_reason": "insufficient_rank"})
    )
    layers[10] = layers[10].model_copy(update={"positions": {**layers[10].positions, "all": position}})
    reference = pair.reference.model_copy(update={"layers": tuple(layers)})
    alpha = pair.reference_capture.all.alpha.copy()
    alpha[:, 10] = np.nan
    capture = replace(pair.reference_capture, all=replace(pair.reference_capture.all, alpha=alpha))
    result = replace(pair, reference=reference, reference_capture=capture).compare()
    assert result.layers[10].d_contraction.all.value is None
    assert result.layers[10].d_contraction.all.reason == "insufficient_rank"
    assert result.scores.delta_align is None
    assert result.scores.reasons["delta_align"] == "contraction_missing_in_terminal_window"
    assert result.scores.transport_fall is not None
    assert result.verdict.outcome == "pass"


def test_a_prompt_without_a_value_is_left_out_and_nothing_else() -> None:
    pair = changed_pair()
    transport = pair.candidate_capture.all.transport.copy()
    transport[3, 5] = np.nan
    capture = replace(pair.candidate_capture, all=replace(pair.candidate_capture.all, transport=transport))
    whole, holed = pair.compare(), replace(pair, candidate_capture=capture).compare()
    assert holed.layers[5].d_transport.all.value == pytest.approx(0.0, abs=1e-12)
    assert holed.layers[9].d_transport.all.value == whole.layers[9].d_transport.all.value


def test_one_prompt_gives_values_without_intervals() -> None:
    result = changed_pair(prompts=1).compare()
    assert result.layers[9].d_transport.all.value is not None
    assert result.layers[9].d_transport.all.ci is None
    assert result.scores.delta_align is not None
    assert result.scores.ci == {}
    assert any("only 1 prompts" in warning for warning in result.warnings)


def test_one_block_gives_a_valid_result() -> None:
    result = changed_pair(blocks=1, first=1).compare()
    assert result.scores.delta_align is None
    assert result.scores.reasons["delta_align"] == "terminal_window_holds_no_aggregated_node"
    assert result.localization["block_swap"].peak == 1


def test_other_profiles_are_refused_with_fingerprints_and_knobs() -> None:
    other = MeasurementProfile(max_tokens=64)
    with pytest.raises(FingerprintMismatch) as refused:
        diff_traces(trace("sft", 4, 8), trace("dpo", 4, 8, profile=other))
    assert refused.value.extra["reference_fingerprint"] == PROFILE.fingerprint
    assert refused.value.extra["candidate_fingerprint"] == other.fingerprint
    assert refused.value.extra["differing_knobs"] == {"max_tokens": {"reference": 512, "candidate": 64}}


@pytest.mark.parametrize(
    ("blocks", "prompts", "change", "named"),
    [
        (4, 8, {"digest": sha("other")}, "prompt set"),
        (4, 8, {"token_ids_digest": sha("other")}, "token ids"),
        (4, 9, {}, "prompt count"),
        (5, 8, {}, "number of blocks"),
    ],
)
def test_traces_of_other_things_are_refused(blocks: int, prompts: int, change: dict[str, Any], named: str) -> None:
    with pytest.raises(TracesNotComparable, match=named) as refused:
        diff_traces(trace("sft", 4, 8), trace("dpo", blocks, prompts, **change))
    assert refused.value.hint


def test_evidence_of_another_pair_is_refused() -> None:
    pair = changed_pair(prompts=32)
    with pytest.raises(TracesNotComparable, match="does not belong"):
        replace(pair, evidence=evidence(10, 31)).compare()
    with pytest.raises(TracesNotComparable, match="capture of local:dpo"):
        replace(pair, candidate_capture=pair.reference_capture).compare()
    with pytest.raises(TracesNotComparable, match="profile fingerprint"):
        replace(pair, profile=MeasurementProfile(max_tokens=64)).compare()


def test_the_digest_moves_with_every_knob_and_side() -> None:
    ours = comparison_digest(sha("a"), sha("b"), PROFILE)
    assert ours != comparison_digest(sha("b"), sha("a"), PROFILE)
    assert ours != comparison_digest(sha("a"), sha("b"), MeasurementProfile(bootstrap_draws=400, seed=1))
    assert ours == comparison_digest(sha("a"), sha("b"), MeasurementProfile(bootstrap_draws=400))


def test_point_differences_of_a_trace_with_itself_are_zero() -> None:
    diff = diff_traces(trace("sft", 4, 8), trace("sft", 4, 8))
    assert [layer.layer for layer in diff.layers] == [0, 1, 2, 3, 4]
    for layer in diff.layers:
        for position in layer.positions.values():
            assert position.d_contraction == 0.0
            assert position.d_transport == (0.0 if layer.layer else None)
    assert not diff.readout_moved


def test_differences_within_their_noise_have_no_place() -> None:
    pair = changed_pair(alpha_shift=0.0, transport_factor=1.0)
    noise = 1e-3 * np.random.default_rng(8).standard_normal(pair.candidate_capture.all.transport.shape)
    noisy = replace(pair.candidate_capture.all, transport=pair.candidate_capture.all.transport + noise)
    result = replace(pair, candidate_capture=replace(pair.candidate_capture, all=noisy)).compare()
    assert any(layer.d_transport.all.value for layer in result.layers[2:])
    assert not any(layer.d_transport.all.significant for layer in result.layers)
    assert result.localization["d_transport"].reason == "no_detectable_change"
    assert result.localization["d_transport"].center is None


def test_opposite_signs_at_the_two_choices_of_positions_are_named() -> None:
    pair = changed_pair(transport_factor=0.8)
    steps = pair.reference_capture.last.transport * np.where(np.arange(11) >= 8, 1.2, 1.0)
    changed = replace(pair.candidate_capture, last=replace(pair.candidate_capture.last, transport=steps))
    result = replace(pair, candidate_capture=changed).compare()
    assert [layer.layer for layer in result.layers if "d_transport" in layer.sign_disagreement] == [8, 9, 10]
    assert any("opposite signs" in warning and "8, 9, 10" in warning for warning in result.warnings)


@pytest.mark.parametrize("member", ["weight_change", "block_swap_transport"])
def test_evidence_over_other_blocks_is_refused(member: str) -> None:
    pair = changed_pair()
    other = replace(pair.evidence, **{member: getattr(pair.evidence, member)[..., :-1]})
    with pytest.raises(TracesNotComparable, match=member):
        replace(pair, evidence=other).compare()


@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_a_block_without_a_finite_swap_is_null_and_said_aloud(hole: float) -> None:
    pair = changed_pair()
    swap = np.where(np.arange(10) == 3, hole, pair.evidence.block_swap)
    result = replace(pair, evidence=replace(pair.evidence, block_swap=swap)).compare()
    assert result.layers[4].block_swap.value is None
    assert result.layers[4].block_swap.reason == "not_measured"
    assert result.localization["block_swap"].window80 == (8, 10)
    assert any("no finite value for some prompts at blocks 4:" in warning for warning in result.warnings)
