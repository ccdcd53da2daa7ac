"""What is known about the history checkpoints must be found in them (``examples/history/README.md``)."""

from collections.abc import Callable

import pytest

from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, LayerComparison

Compared = Callable[..., Comparison]
BANDS = {"dpo-blocks-1-7": (1, 7), "dpo-blocks-9-15": (9, 15), "dpo-blocks-18-24": (18, 24)}


def differences(layer: LayerComparison) -> dict[str, Estimate]:
    """Every difference of one layer by name."""
    found = {"block_swap": layer.block_swap, "block_swap_transport": layer.block_swap_transport}
    for member in ("d_contraction", "d_transport", "d_transport_fixed_lens", "d_entropy", "function_gap"):
        for policy in ("last", "all"):
            found[f"{member}.{policy}"] = getattr(getattr(layer, member), policy)
    return found


def test_a_model_against_itself_is_exactly_zero(compared: Compared) -> None:
    result = compared("sft")
    assert result.identical
    seen = 0
    for layer in result.layers:
        for name, estimate in differences(layer).items():
            if estimate.value is None:
                assert estimate.reason, f"{name} at layer {layer.layer} is null without a reason"
                continue
            assert estimate.value == 0.0, f"{name} at layer {layer.layer}"
            seen += 1
        assert layer.weight_change in (None, 0.0)
    assert seen > 10 * (len(result.layers) - 1)
    assert result.damage.level == "none"
    for name, localization in result.localization.items():
        assert localization.center is None, f"{name}: nothing changed, so nothing has a place"
        assert localization.reason


def test_every_difference_is_exactly_zero_before_the_first_changed_block(compared: Compared) -> None:
    result = compared("dpo-blocks-18-24")
    for layer in result.layers[:18]:
        for name, estimate in differences(layer).items():
            assert estimate.value in (None, 0.0), f"{name} at layer {layer.layer}"
        assert layer.weight_change in (None, 0.0)
    assert result.layers[18].block_swap.value
    assert result.layers[18].function_gap.all.value


@pytest.mark.parametrize("name", BANDS)
@pytest.mark.parametrize("profile", ["block_swap", "weights"])
def test_a_change_at_known_blocks_is_found_there(compared: Compared, name: str, profile: str) -> None:
    first, last = BANDS[name]
    place = compared(name).localization[profile]
    assert place.window80 is not None
    assert place.window80[0] >= first
    assert place.window80[1] <= last
    assert place.peak is not None
    assert first <= place.peak <= last
    assert place.center is not None
    assert first / 24 <= place.center <= last / 24


@pytest.mark.parametrize("name", BANDS)
def test_blocks_that_did_not_change_swap_to_exactly_zero(compared: Compared, name: str) -> None:
    first, last = BANDS[name]
    for layer in compared(name).layers[1:]:
        changed = first <= layer.layer <= last
        assert (layer.block_swap.value != 0.0) == changed
        assert (layer.weight_change != 0.0) == changed


@pytest.mark.parametrize("name", ["dpo-overoptimised", "dpo-broken"])
def test_wrecked_models_raise_the_damage_panel(compared: Compared, name: str) -> None:
    result = compared(name)
    assert result.damage.level == "damaged"
    assert result.verdict.outcome == "fail"
    signal = result.damage.signals["nll_change"]
    assert signal.ci is not None
    assert signal.damaged is not None
    assert signal.ci[0] > signal.damaged
    assert result.verdict.reasons[0].startswith("predicts text ")
    assert f"limit {signal.damaged}" in result.verdict.reasons[0]


@pytest.mark.parametrize("name", ["dpo-short", "sft-twin"])
def test_healthy_models_do_not_raise_the_damage_panel(compared: Compared, name: str) -> None:
    result = compared(name)
    assert result.damage.level == "none"
    assert result.verdict.outcome == "pass"
    assert any(reason.startswith("only the given prompts were looked at") for reason in result.verdict.reasons)
    moved = result.prompt_changes
    assert moved
    assert max(abs(change.nll_change or 0.0) for change in moved) < 1.0


def test_the_strongest_signature_belongs_to_a_wrecked_model(compared: Compared) -> None:
    """The reason why a score is never gated on alone."""
    wrecked = compared("dpo-overoptimised").scores.delta_align
    healthy = compared("dpo-short").scores.delta_align
    assert wrecked is not None
    assert healthy is not None
    assert abs(wrecked) > abs(healthy)


def test_what_the_terminal_share_is_compared_with_is_stated(compared: Compared) -> None:
    for localization in compared("dpo-short").localization.values():
        assert localization.terminal_share_null == pytest.approx(8 / 24)


def test_preference_tuning_is_told_from_its_sft_twin_and_from_noise(compared: Compared) -> None:
    """``sft-twin`` saw the same texts for as long as ``dpo-short``: what differs between them is the objective."""
    result = compared("dpo-short", "sft-twin", 2)
    contrast = result.nulls["control"].contrast["delta_align"]
    assert contrast.significant
    assert contrast.ci is not None
    assert contrast.ci[0] <= (contrast.value or 0.0) <= contrast.ci[1]
    noise = result.nulls["matched_noise"]
    assert len(noise.values) == 2
    assert noise.percentile == 100.0, "random changes of the same size do less"
    assert not any("no control" in warning for warning in result.warnings)


def test_noise_leaves_frozen_blocks_alone(compared: Compared) -> None:
    """A change of blocks 18-24 is matched by noise in blocks 18-24: every other number stays what it was."""
    plain, noisy = compared("dpo-blocks-18-24"), compared("dpo-blocks-18-24", None, 1)
    assert noisy.layers == plain.layers
    assert noisy.localization == plain.localization
    assert len(noisy.nulls["matched_noise"].values) == 1


def test_an_adapter_on_every_block_is_seen_in_every_block_and_nowhere_else(compared: Compared) -> None:
    result = compared("lora-adapter")
    assert result.weight_change_other == {"embeddings": 0.0, "final_norm": 0.0, "head": 0.0}
    assert not result.readout_moved
    for layer in result.layers[1:]:
        assert layer.block_swap.value
        assert layer.weight_change
