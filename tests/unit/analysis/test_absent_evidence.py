"""A comparison of two traces whose checkpoints are not at hand says what it holds, and nothing of what it does not."""

import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from spinal.analysis.compare import compare
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, LayerComparison
from spinal.documents.evidence import absent_evidence
from spinal.documents.trace import Trace
from spinal.report import render
from spinal.report.formats.terminal import print_document
from tests.support.fabricated import PROVENANCE, Pair, changed_pair, identical_pair, sha

REASON = "checkpoint_not_at_hand"
FROM_CAPTURES = ("d_contraction", "d_transport", "d_entropy")


def apart(pair: Pair, **options: object) -> Comparison:
    """The pair compared without its evidence."""
    without = absent_evidence(pair.reference, pair.candidate, pair.profile, REASON)
    return replace(pair, evidence=without).compare(**options)


def with_readout(trace: Trace, name: str) -> Trace:
    return trace.model_copy(update={"model": trace.model.model_copy(update={"readout_digest": sha(name)})})


def with_engine(trace: Trace, **changes: str) -> Trace:
    return trace.model_copy(update={"engine": trace.engine.model_copy(update=changes)})


def louder(pair: Pair, nats: float) -> Pair:
    """The candidate's NLL raised by so many nats per token."""
    changed = replace(pair.candidate_capture, nll=pair.candidate_capture.nll + nats)
    return replace(pair, candidate_capture=changed)


def moved_readout() -> Pair:
    pair = changed_pair()
    return replace(pair, candidate=with_readout(pair.candidate, "moved"))


PAIRS = {
    "changed": changed_pair(),
    "changed everywhere": changed_pair(first=1, alpha_shift=0.5),
    "few prompts": changed_pair(prompts=6),
    "one prompt": changed_pair(prompts=1),
    "groups": changed_pair(kind="groups"),
    "identical": identical_pair(),
    "moved read-out": moved_readout(),
    "much worse NLL": louder(changed_pair(), 3.0),
    "a little worse NLL": louder(changed_pair(), 0.5),
    "other device": replace(changed_pair(), candidate=with_engine(changed_pair().candidate, device="cuda:0 (A)")),
}


def jointly(layer: LayerComparison) -> dict[str, Estimate]:
    """What only a joint pass over both checkpoints can tell."""
    found = {"block_swap": layer.block_swap, "block_swap_transport": layer.block_swap_transport}
    return found | {f"function_gap.{policy}": getattr(layer.function_gap, policy) for policy in ("last", "all")}


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "moved read-out"])
def test_what_the_captures_hold_is_what_the_whole_comparison_holds(name: str) -> None:
    whole, found = PAIRS[name].compare(), apart(PAIRS[name])
    for mine, theirs in zip(found.layers, whole.layers, strict=True):
        for member in (*FROM_CAPTURES, "d_transport_fixed_lens", "depth"):
            assert getattr(mine, member) == getattr(theirs, member)
    for profile in ("d_contraction", "d_transport"):
        assert found.localization[profile] == whole.localization[profile]
    for score in ("delta_align", "contraction_rise", "transport_fall", "coherence", "coherence_reference"):
        assert getattr(found.scores, score) == getattr(whole.scores, score)
        assert found.scores.ci.get(score) == whole.scores.ci.get(score)
    assert found.scores.companions == whole.scores.companions
    assert found.nulls["self"] == whole.nulls["self"]
    for signal in ("nll_change", "entropy_change", "effective_rank_ratio", "non_finite"):
        assert found.damage.signals[signal] == whole.damage.signals[signal]


@pytest.mark.parametrize("name", PAIRS)
def test_what_needs_weights_is_null_with_its_reason(name: str) -> None:
    found = apart(PAIRS[name])
    for layer in found.layers:
        for member, estimate in jointly(layer).items():
            assert estimate.value is None, member
            assert estimate.ci is None, member
            assert layer.layer == 0 or estimate.reason == REASON, member
        assert layer.weight_change is None
    for profile in ("block_swap", "weights", "block_swap_transport", "function"):
        place = found.localization[profile]
        assert (place.center, place.peak, place.window80, place.ci) == (None, None, None, {})
        assert place.reason == REASON, profile
    for score in ("footprint", "spinal_score"):
        assert getattr(found.scores, score) is None
        assert found.scores.reasons[score] == REASON
    for signal in ("gap", "hidden_change", "block_swap_mean"):
        assert found.damage.signals[signal].value is None
        assert found.damage.signals[signal].level is None
        assert found.damage.signals[signal].reason == REASON
    assert found.weight_change_other == {}
    assert found.nulls["depth"].observed is None


def test_a_value_that_the_captures_lack_keeps_the_reason_of_its_own() -> None:
    pair = changed_pair()
    blank = replace(pair.candidate_capture.all, alpha=np.full_like(pair.candidate_capture.all.alpha, np.nan))
    found = apart(replace(pair, candidate_capture=replace(pair.candidate_capture, all=blank)))
    assert found.localization["d_contraction"].reason == "not_measured"
    assert found.layers[3].d_contraction.all.reason == "not_measured"


def test_the_read_out_that_moved_needs_the_weights_for_its_fixed_lens() -> None:
    found = apart(PAIRS["moved read-out"])
    assert found.readout_moved
    assert [layer.d_transport_fixed_lens.all.reason for layer in found.layers[1:]] == [REASON] * 10
    assert all(layer.d_transport.all.value is not None for layer in found.layers[1:])
    assert not apart(PAIRS["changed"]).readout_moved


@pytest.mark.parametrize("name", PAIRS)
def test_the_verdict_is_inconclusive_unless_what_was_seen_is_damage_by_itself(name: str) -> None:
    outcome = "fail" if name == "much worse NLL" else "inconclusive"
    assert apart(PAIRS[name]).verdict.outcome == outcome


CLAIMS = (
    "no block computes anything else",
    "no sure sign of damage in anything that was measured",
    "damage panel: none |",
    "every difference is exactly",
    "nothing earlier moved",
    "the change in what blocks compute is spread",
    "of the change in what blocks compute sits",
    "no block changed",
    "the reference's block adds nothing there",
    "is not beyond what random changes",
    "reads the candidate through the reference's read-out",
)
"""What a comparison without its evidence cannot know, in the words that the others use."""


def said(result: Comparison) -> str:
    """Every sentence of every format, as one lower-case line."""
    terminal = StringIO()
    print_document(result, Console(file=terminal, width=400))
    text = " ".join([terminal.getvalue(), render(result, "md"), render(result, "html"), *result.warnings])
    return re.sub(r"[\s\\_]+", " ", text).lower()


@pytest.mark.parametrize("noise", [0, 2])
@pytest.mark.parametrize("name", PAIRS)
def test_no_sentence_claims_what_was_not_measured(name: str, noise: int) -> None:
    pair = PAIRS[name]
    profile = pair.profile.model_copy(update={"noise_draws": noise})
    result = apart(replace(pair, profile=profile))
    text = said(result)
    assert [claim for claim in CLAIMS if claim in text] == []
    assert "damage panel: none" not in text or "damage panel: none among what was measured" in text
    assert "no joint pass over both checkpoints was made" in text
    if noise:
        assert result.nulls["matched_noise"].values == ()
        assert "checkpoint not at hand" in result.nulls["matched_noise"].note


def test_the_same_sentences_are_said_where_they_were_measured() -> None:
    """Else the test above would look for words that nobody uses."""
    texts = " ".join(said(PAIRS[name].compare()) for name in ("identical", "changed"))
    assert "every difference is exactly" in texts
    assert "nothing earlier moved" in texts
    assert "the change in what blocks compute is spread" in texts
    assert "no sure sign of damage in anything that was measured" in texts
    assert "among what was measured" not in texts


def test_traces_of_one_checkpoint_from_two_devices_are_not_called_equal() -> None:
    pair = identical_pair()
    noisy = replace(pair.candidate_capture.all, transport=pair.candidate_capture.all.transport * (1 + 1e-6))
    pair = replace(
        pair,
        candidate=with_engine(pair.candidate, device="cuda:0 (A)"),
        candidate_capture=replace(pair.candidate_capture, all=noisy),
    )
    result = apart(pair)
    assert result.identical
    assert "is exactly 0" not in said(result)
    assert "every difference that was measured is exactly 0" in said(apart(identical_pair()))
    assert any("different conditions (device)" in warning for warning in result.warnings)
    assert result.provenance == PROVENANCE


def test_it_is_another_comparison_than_the_whole_one() -> None:
    pair = changed_pair()
    whole, found = pair.compare(), apart(pair)
    assert found.digest != whole.digest
    assert (found.reference, found.candidate) == (whole.reference, whole.candidate)
    assert found.digest == apart(pair).digest


@pytest.mark.parametrize("name", PAIRS)
def test_it_survives_json_unchanged(name: str) -> None:
    found = apart(PAIRS[name])
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_a_control_needs_no_weights() -> None:
    pair = changed_pair()
    found = apart(pair, control=(pair.reference, pair.reference_capture))
    whole = pair.compare(control=(pair.reference, pair.reference_capture))
    assert found.nulls["control"] == whole.nulls["control"]


def test_provenance_names_the_devices_of_both_traces() -> None:
    pair = PAIRS["other device"]
    evidence = absent_evidence(pair.reference, pair.candidate, pair.profile, REASON)
    assert evidence.device == "cpu and cuda:0 (A)"
    same = changed_pair()
    assert absent_evidence(same.reference, same.candidate, same.profile, REASON).device == "cpu"


def test_evidence_that_is_absent_is_as_large_as_evidence_that_is_not() -> None:
    pair = changed_pair(prompts=200)
    profile = pair.profile.model_copy(update={"swap_prompts": 16})
    evidence = absent_evidence(pair.reference, pair.candidate, profile, REASON)
    assert evidence.block_swap.shape == (16, 10)
    compare(
        pair.reference, pair.reference_capture, pair.candidate, pair.candidate_capture, evidence, profile, PROVENANCE
    )
