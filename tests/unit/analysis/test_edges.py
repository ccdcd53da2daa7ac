"""Where a rule of the analysis begins and ends: smallest counts, the limits themselves, what one side lacks."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from spinal.analysis import contraction, controls, diff, layers, nulls, remarks, scores, shape, uncertainty
from spinal.analysis.contraction import Fit, fit_window, influence_se, numerical_rank, window_ranks
from spinal.analysis.damage.structure import rank_ratio
from spinal.analysis.layers import Pair as Full
from spinal.analysis.localization import localize, terminal_window
from spinal.analysis.locators.profile import increments, known, nonnegative, signed, signed_means
from spinal.documents.comparison import Localization, Null
from spinal.errors import FingerprintMismatch, TracesNotComparable
from tests.support.fabricated import Pair, capture, changed_pair, evidence, trace
from tests.unit.analysis.recorded_pairs import PAIRS, pair_of

NAN = float("nan")


# the spectrum of a layer


def test_windows_hold_the_ranks_between_their_shares_at_every_rank() -> None:
    shares = {"bulk": (Fraction(5, 100), Fraction(30, 100)), "body": (Fraction(10, 100), Fraction(50, 100)),
              "wide": (Fraction(10, 100), Fraction(90, 100))}  # fmt: skip
    for rank in range(1, 1001):
        found = window_ranks(rank)
        for name, (low, high) in shares.items():
            assert found[name] == (max(1, math.ceil(low * rank)), math.floor(high * rank)), (name, rank)
        assert found["tail"] == (rank // 2 + 1, rank)


@pytest.mark.parametrize(
    ("values", "rows", "tolerance", "rank"),
    [
        ([], 5, 0.1, 0), ([0.0], 5, 0.1, 0), ([0.0, 0.0], 5, 0.1, 0), ([3.0], 5, 0.1, 1), ([3.0], 1, 0.1, 0),
        ([3.0], 0, 0.1, 0), ([4.0, 2.0], 5, 0.5, 1), ([4.0, 2.1], 5, 0.5, 2), ([4.0, 3.0, 2.5], 3, 0.5, 2),
        ([4.0, 3.0, 2.5], 9, 0.5, 3), ([0.5, 0.25], 5, 0.1, 2),
    ],
)  # fmt: skip
def test_numerical_rank(values: list[float], rows: int, tolerance: float, rank: int) -> None:
    assert numerical_rank(np.array(values), rows, tolerance) == rank


@pytest.mark.parametrize(("min_ranks", "needed"), [(1, 3), (3, 3), (4, 4), (6, 6)])
def test_a_fit_needs_three_ranks_and_as_many_as_are_asked_for(min_ranks: int, needed: int) -> None:
    sigma = np.arange(1.0, 20.0) ** -0.5
    enough, less = (fit_window(sigma, 2, 1 + ranks, min_ranks=min_ranks) for ranks in (needed, needed - 1))
    assert enough.alpha == pytest.approx(0.5, abs=1e-12)
    assert (less.alpha, less.reason) == (None, "insufficient_rank")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_fit_is_curved_when_its_bend_is_beyond_its_slope_in_size(sign: float) -> None:
    alpha = sign * 2.0
    limit = contraction.CURVED_ABOVE * 2.0
    for bend in (1.0, -1.0):
        assert Fit(alpha, bend * limit * 1.001, 1, 9).curved is True
        assert Fit(alpha, bend * limit, 1, 9).curved is False
    assert Fit(None, None, 1, 9).curved is None


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_shares_of_a_spectrum_do_not_depend_on_its_scale(size: float) -> None:
    sigma = size * np.array([4.0, 2.0, 1.0, 0.0])
    assert contraction.participation_ratio(sigma) == pytest.approx(21**2 / (256 + 16 + 1), rel=1e-12)
    assert contraction.top_share(sigma) == pytest.approx(4 / 7, rel=1e-12)


def test_an_error_from_influences_needs_two_prompts() -> None:
    two = np.array([[[1.0, -1.0], [3.0, -3.0]]])
    assert influence_se(two) == pytest.approx(np.array([[1.0, 3.0]]))
    one = influence_se(np.zeros((3, 4, 1)))
    assert one.shape == (3, 4)
    assert np.isnan(one).all()


# differences of traces


@pytest.mark.parametrize(("candidate", "reference", "difference"), [(3.0, 1.0, 2.0), (None, 1.0, None),
                                                                   (3.0, None, None), (None, None, None)])  # fmt: skip
def test_a_difference_needs_both_sides(
    candidate: float | None, reference: float | None, difference: float | None
) -> None:
    assert diff._minus(candidate, reference) == difference


@pytest.mark.parametrize(
    ("values", "agree"),
    [
        ([], None), ([1.0], None), ([1.0, 2.0], True), ([-1.0, 2.0], False), ([0.0, 0.0], True), ([0.0, 1.0], False),
        ([-1.0, -2.0], True),
    ],
)  # fmt: skip
def test_signs_agree_from_two_values_on(values: list[float], agree: bool | None) -> None:
    assert diff.same_sign(values) is agree


def test_a_contraction_that_is_missing_has_the_reason_of_the_side_that_lacks_it() -> None:
    made = trace("a", 2, 4).layers[1].positions["last"]
    without = [made.model_copy(update={"contraction": None, "contraction_reason": why}) for why in ("one", "other")]
    assert diff._position(without[0], made).reason == "one"
    assert diff._position(made, without[1]).reason == "other"
    assert diff._position(*without).reason == "one"
    nameless = made.model_copy(update={"contraction": None})
    assert diff._position(nameless, made).reason == "not_measured"


def test_replicates_of_different_kinds_or_numbers_do_not_pair() -> None:
    rows = capture(trace("a", 3, 8), 8, 0).all
    window = 0
    higher = replace(rows, replicates=rows.replicates + 1.0)
    assert layers.replicate_differences(rows, higher, window) == pytest.approx(np.ones((4, 8)), abs=1e-12)
    for other in (
        replace(rows, replicate_kind="groups"),
        replace(rows, replicates=rows.replicates[..., :5]),
        replace(rows, replicate_kind="groups", replicates=rows.replicates[..., :5]),
    ):
        assert np.isnan(layers.replicate_differences(rows, other, window)).all()


# what is refused


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_capture_of_another_trace_is_refused_on_either_side(side: str) -> None:
    pair = changed_pair()
    foreign = replace(getattr(pair, f"{side}_capture"), trace_digest="0" * 64)
    with pytest.raises(
        TracesNotComparable, match=f"capture of local:{'sft' if side == 'reference' else 'dpo'}|sft|dpo"
    ):
        replace(pair, **{f"{side}_capture": foreign}).compare()


def test_refusals_name_the_two_sides_in_their_order() -> None:
    pair = changed_pair()
    longer = trace("dpo", pair.candidate.model.n_layers + 2, pair.candidate.prompt_set.count)
    with pytest.raises((TracesNotComparable, FingerprintMismatch)) as refused:
        replace(pair, candidate=longer).compare()
    with pytest.raises((TracesNotComparable, FingerprintMismatch)) as turned:
        replace(pair, reference=longer, candidate=pair.reference).compare()
    assert str(refused.value) != str(turned.value)
    with pytest.raises((TracesNotComparable, FingerprintMismatch)) as of_control:
        pair.compare(control=(longer, pair.candidate_capture))
    assert str(of_control.value) == str(refused.value)


def test_more_swap_prompts_than_prompts_are_refused() -> None:
    pair = changed_pair(prompts=8)
    wide = evidence(10, 9)
    with pytest.raises(TracesNotComparable, match="block_swap"):
        replace(pair, evidence=replace(pair.evidence, block_swap=wide.block_swap)).compare()


# draws


def test_a_draw_without_any_swap_prompt_weighs_them_equally() -> None:
    shares = np.array([[0.0, 0.0, 0.0, 1.0], [0.5, 0.25, 0.0, 0.25], [0.0, 1.0, 0.0, 0.0]])
    expected = [[1 / 3, 1 / 3, 1 / 3], [2 / 3, 1 / 3, 0.0], [0.0, 1.0, 0.0]]
    assert uncertainty.shares_of(shares, np.arange(3)) == pytest.approx(np.array(expected), abs=1e-15)


def test_noise_is_told_to_be_missing_where_it_was_asked_for_and_could_not_be_drawn() -> None:
    told = {}
    for draws in (0, 2):
        pair, _ = pair_of(replace(PAIRS["without weights"], noise=draws))
        told[draws] = pair.compare().nulls.get("matched_noise")
    assert told[0] is None
    assert told[2] is not None
    assert (told[2].percentile, told[2].values) == (None, ())
    # Noise that was asked for and is simply not there is not explained by a reason that there is none for.
    pair = changed_pair()
    asked = pair.profile.model_copy(update={"noise_draws": 2})
    assert "matched_noise" not in replace(pair, profile=asked).compare().nulls


@pytest.mark.parametrize("observed", [-0.3, 0.3])
def test_noise_is_compared_with_the_size_of_what_was_observed(observed: float) -> None:
    pair, _ = pair_of(PAIRS["a small change"])
    shares = uncertainty.draw_shares(24, 50, 0)
    full = Full(
        reference=pair.reference, candidate=pair.candidate, reference_capture=pair.reference_capture,
        candidate_capture=pair.candidate_capture, evidence=pair.evidence, profile=pair.profile, shares=shares,
        swap_shares=uncertainty.shares_of(shares, np.arange(12)), terminal=terminal_window(5, 0.55),
    )  # fmt: skip
    found = controls.noise_null(full, observed)
    assert found.observed == 0.3
    assert found.percentile == controls.noise_null(full, 0.3).percentile


# contrasts with a control


def test_a_contrast_without_spread_is_an_interval_only_where_it_is_zero() -> None:
    zero, other = (controls._contrast(value, np.full(9, value)) for value in (0.0, 0.5))
    assert (zero.value, zero.ci, zero.se, zero.mde) == (0.0, (0.0, 0.0), 0.0, 0.0)
    assert (other.value, other.ci, other.se, other.mde) == (0.5, None, None, None)


@pytest.mark.parametrize("draws", [[NAN, NAN, NAN], [0.1, NAN, 0.3], [0.1, 0.2, math.inf]])
def test_a_contrast_with_a_draw_that_is_missing_has_no_interval(draws: list[float]) -> None:
    found = controls._contrast(0.2, np.array(draws))
    assert (found.value, found.ci, found.significant) == (0.2, None, None)


def test_a_contrast_with_a_spread_of_one_has_an_interval() -> None:
    found = controls._contrast(0.0, np.array([-1.0, 1.0] * 50))
    assert found.se == pytest.approx(1.0, rel=0.01)
    assert found.significant is False


@pytest.mark.parametrize(
    ("draws", "significant"), [([0.0, 1.0], False), ([-1.0, 0.0], False), ([0.1, 1.0], True), ([-1.0, -0.1], True)]
)
def test_an_interval_that_touches_zero_holds_it(draws: list[float], significant: bool) -> None:
    assert controls._contrast(0.5, np.repeat(draws, 100)).significant is significant


# intervals


@pytest.mark.parametrize("scale", [1e-9, 1.0, -1.0, 1e9])
def test_an_interval_is_that_of_the_draws_where_they_differ(scale: float) -> None:
    shares = np.array([[1.0, 0.0]] * 50 + [[0.9, 0.1]] * 50)
    [found] = uncertainty.mean_estimates(scale * np.array([[0.0], [1.0]]), shares, reasons=[""], test=False)
    assert found.value == pytest.approx(0.5 * scale)
    assert found.ci == pytest.approx(tuple(sorted((0.0, 0.1 * scale))), rel=1e-12)
    assert found.se == pytest.approx(0.05025 * abs(scale), rel=1e-3)


@pytest.mark.parametrize("value", [0.1, -0.1, 0.7, -0.7, 1e-300, 0.0])
@pytest.mark.parametrize("prompts", [2, 3, 7, 49])
def test_an_interval_of_what_never_varies_holds_its_value(value: float, prompts: int) -> None:
    shares = uncertainty.draw_shares(prompts, 200, 0)
    [found] = uncertainty.mean_estimates(np.full((prompts, 1), value), shares, reasons=[""], test=False)
    assert found.value is not None
    assert found.ci is not None
    assert found.ci[0] <= found.value <= found.ci[1]
    assert found.ci == pytest.approx((value, value), rel=1e-12)


@pytest.mark.parametrize(("prompts", "has"), [(1, False), (2, True), (3, True)])
def test_a_mean_has_an_interval_from_two_prompts_on(prompts: int, has: bool) -> None:
    values, shares = np.arange(1.0, prompts + 1)[:, None], uncertainty.draw_shares(prompts, 50, 0)
    [found] = uncertainty.mean_estimates(values, shares, reasons=[""], test=True)
    assert (found.ci is not None) is has


@pytest.mark.parametrize(("replicates", "has"), [(2, False), (3, True)])
def test_an_alpha_has_an_interval_from_three_replicates_on(replicates: int, has: bool) -> None:
    rows = np.linspace(-1.0, 1.0, replicates)[None]
    shares = uncertainty.draw_shares(replicates, 50, 0)
    [found] = uncertainty.alpha_estimates(np.ones(1), rows, "groups", shares, 0, reasons=[""])
    assert (found.ci is not None) is has


def test_a_value_at_the_critical_one_is_not_flagged() -> None:
    found = uncertainty.corrected_flags(np.array([1.0, 1.01]), np.ones((20, 2)), np.ones(2))
    assert found.tolist() == [False, True]


# damage


def test_a_ratio_of_ranks_needs_a_positive_rank_below() -> None:
    assert rank_ratio(np.array([9.0, 0.5, 0.5]), np.array([9.0, 1.0, 2.0]), (1, 2)) == 3.0
    assert math.isnan(rank_ratio(np.zeros(3), np.ones(3), (1, 2)))
    assert math.isnan(rank_ratio(np.full(3, NAN), np.ones(3), (1, 2)))


# profiles and places


def test_what_is_not_known_weighs_nothing_and_where_nothing_is_there_is_no_place() -> None:
    some, none = np.array([NAN, 2.0, math.inf]), np.full(3, NAN)
    found = known(some)
    assert (found.weights.tolist(), found.absent) == ([0.0, 2.0, 0.0], None)
    assert known(none).absent == known(none * 2).absent is not None
    shares = uncertainty.draw_shares(4, 20, 0)
    holed = np.tile([NAN, 2.0, 3.0], (4, 1))
    assert nonnegative(holed, shares).absent is None
    assert nonnegative(np.full((4, 3), NAN), shares).absent is not None
    assert increments(np.tile([NAN, 1.0, 2.0, 4.0], (4, 1)), shares).absent is None
    assert increments(np.full((4, 3), NAN), shares).absent is not None


@pytest.mark.parametrize("make", [nonnegative, increments, signed_means])
def test_a_profile_of_one_prompt_has_no_replicates_and_of_two_has(make: Any) -> None:
    for prompts in (1, 2):
        values = np.arange(1.0, 1.0 + 3 * prompts).reshape(prompts, 3)
        found = make(values, uncertainty.draw_shares(prompts, 20, 0))
        assert (found.replicates is None) is (prompts == 1)


def test_values_without_any_error_keep_their_size_and_those_with_some_lose_it() -> None:
    values, draws = np.array([-2.0, 1.0]), np.zeros((20, 2))
    assert signed(values, draws, np.full(2, NAN)).weights.tolist() == [2.0, 1.0]
    assert signed(values, draws, np.array([0.5, NAN])).replicates is not None


def test_intervals_of_a_place_need_a_draw_of_every_member() -> None:
    profile = np.array([1.0, 2.0, 3.0])
    found = localize(profile, np.full((9, 3), 0.0), (2, 3))
    assert found.ci == {}
    assert localize(profile, np.vstack([np.zeros((5, 3)), np.tile(profile, (5, 1))]), (2, 3)).ci != {}


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_place_and_its_interval_do_not_depend_on_the_scale(scale: float) -> None:
    generator = np.random.default_rng(0)
    profile, drawn = np.array([1.0, 2.0, 4.0]), generator.uniform(0.5, 4.0, (50, 3))
    one, other = (localize(profile * s, drawn * s, (2, 3)) for s in (1.0, scale))
    assert one.ci.keys() == other.ci.keys()
    for name, ends in one.ci.items():
        assert other.ci[name] == pytest.approx(ends, rel=1e-12)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_profile_is_moved_around_from_two_blocks_on(blocks: int) -> None:
    found = nulls.depth_null(np.arange(1.0, blocks + 1), (blocks, blocks))
    assert len(found.values) == blocks - 1
    assert (found.observed is None) is (blocks == 1)


# scores


def curves_of(alpha: list[float], transport: list[float]) -> scores.Curves:
    one, other = np.array(alpha), np.array(transport)
    return scores.Curves(one, one[None], other, other[None])


NO_ALPHA, NO_STEPS = "contraction_missing_in_terminal_window", "transport_missing_in_terminal_window"
TOO_FEW = "fewer_than_two_nodes_in_terminal_window"
FINE = ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5])
MISSING: dict[str, tuple[Any, Any, str, str]] = {
    "alpha of the reference": (([1, NAN, 1], FINE[1]), FINE, "contraction_rise", NO_ALPHA),
    "alpha of the candidate": (FINE, ([1, 1, NAN], FINE[1]), "contraction_rise", NO_ALPHA),
    "alpha of both": (([1, NAN, NAN], FINE[1]), ([1, NAN, NAN], FINE[1]), "delta_align", NO_ALPHA),
    "an alpha of zero": (([1, 0, 0], FINE[1]), FINE, "contraction_rise", "reference_contraction_not_positive"),
    "a small alpha": (([1, 0.1, 0.1], FINE[1]), FINE, "coherence", TOO_FEW),
    "steps of the reference": ((FINE[0], [0.5, NAN, 0.5]), FINE, "transport_fall", NO_STEPS),
    "steps of the candidate": (FINE, (FINE[0], [0.5, 0.5, NAN]), "transport_fall", NO_STEPS),
    "steps of zero": ((FINE[0], [0.5, 0, 0]), FINE, "transport_fall", "reference_transport_is_zero"),
    "small steps": ((FINE[0], [0.5, 0.1, 0.1]), FINE, "coherence", TOO_FEW),
}  # fmt: skip


@pytest.mark.parametrize("what", MISSING)
def test_why_a_score_is_missing(what: str) -> None:
    before, after, name, why = MISSING[what]
    assert scores._why_missing(name, curves_of(*before), curves_of(*after), np.array([1, 2])) == why
    nowhere = np.array([], dtype=np.int64)
    assert (
        scores._why_missing(name, curves_of(*before), curves_of(*after), nowhere)
        == "terminal_window_holds_no_aggregated_node"
    )


def test_scores_over_one_node_and_over_none() -> None:
    before, after = curves_of([1, 1, 1], [0.5, 0.5, 0.5]), curves_of([1, 1, 1.5], [0.5, 0.5, 0.25])
    values, draws = scores.curve_scores(before, after, np.array([2]))
    assert values["contraction_rise"] == pytest.approx(0.5)
    assert values["transport_fall"] == pytest.approx(0.5)
    values, draws = scores.curve_scores(before, after, np.array([], dtype=np.int64))
    assert all(math.isnan(value) for value in values.values())
    assert all(np.isnan(drawn).all() and drawn.shape == (1,) for drawn in draws.values())


def test_an_interval_needs_a_value_and_every_draw() -> None:
    draws = np.linspace(-1.0, 1.0, 50)
    holed = np.where(np.arange(50) == 7, NAN, draws)
    ci, mde = scores._intervals(
        {"whole": 0.0, "nothing": NAN, "holed": 0.0, "neither": NAN},
        {"whole": draws, "nothing": draws, "holed": holed, "neither": holed},
    )
    assert (set(ci), set(mde)) == ({"whole"}, {"whole"})


@pytest.mark.parametrize(("prompts", "has"), [(1, False), (2, True)])
def test_scores_have_intervals_from_two_prompts_on(prompts: int, has: bool) -> None:
    pair, _ = pair_of(replace(PAIRS["a large change"], prompts=prompts, swapped=prompts))
    assert bool(pair.compare().scores.ci) is has


@pytest.mark.parametrize("prompts", [3, 4])
def test_halves_of_the_prompts_need_four(prompts: int) -> None:
    rows = capture(trace("a", 6, prompts), prompts, 0)
    profile = changed_pair().profile
    assert (scores.floor_values(rows, profile, (4, 6)).size > 0) is (prompts == 4)
    assert scores.floor_values(rows, profile, (6, 6)).size > 0 or prompts == 3


# remarks


def remark(made: Any, word: str) -> bool:
    return any(word in one for one in made)


def a_null(percentile: float | None) -> Null:
    return Null(statistic="s", values=(1.0,) * 20, observed=0.5, percentile=percentile, note="")


@pytest.mark.parametrize(
    ("percentile", "said"), [(None, False), (0.0, True), (94.9, True), (95.0, False), (95.5, False)]
)
def test_a_size_is_beyond_chance_from_the_95th_percentile_on(percentile: float | None, said: bool) -> None:
    quiet = a_null(None)
    assert remark(remarks._of_controls({"self": a_null(percentile)}), "not beyond its floor") is said
    noise = {"self": quiet, "matched_noise": a_null(percentile)}
    assert remark(remarks._of_controls(noise), "random changes of the same size") is said


def place(center: float | None, share: float | None) -> Localization:
    made = localize(np.array([1.0, 1.0]), None, (2, 2))
    return made.model_copy(update={"center": center, "terminal_share": share})


def test_a_share_is_nearly_all_beyond_its_limit() -> None:
    for share, said in ((None, False), (remarks.NEARLY_ALL, False), (1.0, True)):
        of = {name: place(None, share) for name in ("block_swap", "weights")}
        assert remark(remarks._of_place(of), "nothing earlier moved") is said


@pytest.mark.parametrize("at", [0.0, 0.2, 0.9])
def test_profiles_disagree_when_their_centres_are_further_apart_than_the_limit(at: float) -> None:
    direction = 1.0 if at < 0.5 else -1.0
    for apart, said in ((0.0, False), (remarks.APART / 2, False), (remarks.APART * 1.01, True)):
        of = {
            "block_swap": place(at, 0.5),
            "function": place(at + direction * apart, 0.5),
            "d_transport": place(None, None),
        }
        assert remark(remarks._of_place(of), "disagree on the place") is said


def test_few_prompts_are_fewer_than_the_limit() -> None:
    for count, said in ((remarks.FEW_PROMPTS - 1, True), (remarks.FEW_PROMPTS, False)):
        pair = changed_pair(prompts=count)
        assert remark(pair.compare().warnings, f"only {count} prompts") is said


@pytest.mark.parametrize("side", ["reference", "candidate"])
@pytest.mark.parametrize("layer", [0, 1, 5, 9, 10])
def test_contraction_is_told_to_be_underdetermined_by_the_last_node_of_either_side(side: str, layer: int) -> None:
    pair: Pair = changed_pair()
    of = getattr(pair, side)
    positions = {
        name: one.model_copy(update={"underdetermined": True}) for name, one in of.layers[layer].positions.items()
    }
    changed = tuple(one.model_copy(update={"positions": positions}) if one.layer == layer else one for one in of.layers)
    made = replace(pair, **{side: of.model_copy(update={"layers": changed})}).compare()
    assert remark(made.warnings, "underdetermined") is (layer == 10)


def without_alpha(prompts: int, width: int, *, layers: int = 10) -> Pair:
    """A pair whose last ``layers`` layers have too few ranks for an alpha under 'last', one row for each prompt."""
    pair = changed_pair(prompts=prompts)
    sides = {}
    for side in ("reference", "candidate"):
        of = getattr(pair, side)
        short = {"contraction": None, "contraction_reason": "insufficient_rank", "rows": prompts}
        changed = [
            one.model_copy(
                update={"positions": one.positions | {"last": one.positions["last"].model_copy(update=short)}}
            )
            for one in of.layers[-layers:]
        ]
        model = of.model.model_copy(update={"hidden_size": width})
        sides[side] = of.model_copy(update={"model": model, "layers": (*of.layers[:-layers], *changed)})
    return replace(pair, **sides)


def test_prompts_that_are_too_few_for_any_contraction_are_told_how_many_would_do() -> None:
    """64 prompts give 63 ranks at most, of which the default window holds 4..18: 15, and a fit takes 16."""
    said = [w for w in without_alpha(64, 96).compare().warnings if "no layer can have a contraction" in w]
    assert len(said) == 1
    assert "64 prompts give at most 63 ranks, of which window 'bulk' holds 15 where a fit takes 16" in said[0]
    enough = int(said[0].split("from ")[1].split(" prompts")[0])
    held = [last - first + 1 for first, last in (window_ranks(enough - k)["bulk"] for k in (1, 2))]
    assert held[0] >= 16 > held[1]
    assert remark(without_alpha(32, 40).compare().warnings, "40 dimensions are too few")
    # With enough ranks, or an alpha somewhere, it is not the number of prompts.
    for pair in (without_alpha(96, 96), without_alpha(64, 96, layers=3)):
        assert not remark(pair.compare().warnings, "no layer can have a contraction")


@pytest.mark.parametrize("significant", [True, False])
@pytest.mark.parametrize("value", [None, 0.1])
def test_a_contrast_that_is_not_significant_is_said_with_its_value(value: float | None, significant: bool) -> None:
    contrast = controls._contrast(0.1, np.repeat([0.05, 0.15] if significant else [-0.1, 0.3], 50))
    if value is None:
        contrast = contrast.model_copy(update={"value": None, "significant": None})
    null = a_null(None).model_copy(update={"contrast": {"delta_align": contrast}})
    said = remark(
        remarks._of_controls({"self": a_null(None), "control": null}), "cannot be told from that of the control"
    )
    assert said is (value is not None and not significant)


# shapes of curves


def test_coherence_of_many_curves_is_that_of_each() -> None:
    generator = np.random.default_rng(0)
    many = generator.standard_normal((5, 4, 3))
    found = shape.path_coherence(many)
    assert found.shape == (5,)
    for curve, one in zip(many, found, strict=True):
        steps = [float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(curve)]
        assert one == pytest.approx(float(np.linalg.norm(curve[-1] - curve[0])) / sum(steps), rel=1e-12)


def test_a_path_needs_two_points_that_differ() -> None:
    assert shape.path_coherence(np.array([[[0.0, 0.0], [3e-9, 4e-9]]])) == pytest.approx([1.0], rel=1e-12)
    assert np.isnan(shape.path_coherence(np.ones((1, 3, 2)))).all()
    short = shape.path_coherence(np.ones((6, 1, 3)))
    assert short.shape == (6,)
    assert np.isnan(short).all()


def test_a_straight_path_is_never_more_than_coherent() -> None:
    """Rounding of a sum of steps may make the chord the longer one."""
    generator = np.random.default_rng(0)
    ends = generator.standard_normal((4000, 1, 3))
    straight = ends * np.array([0.0, 0.1, 0.4, 1.0])[:, None]
    assert shape.path_coherence(straight).max() == 1.0


def test_a_turn_needs_three_known_points() -> None:
    corner = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert shape.turning_angle(corner) == pytest.approx(math.pi / 2)
    assert math.isnan(shape.turning_angle(corner[:2]))
    for point in range(3):
        holed = corner.copy()
        holed[point, 1] = NAN
        assert math.isnan(shape.turning_angle(holed))


def test_a_rank_correlation_needs_two_known_pairs() -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    assert shape.kendall_tau(x, y) == pytest.approx(1 / 3)
    assert shape.kendall_tau(x[:2], y[:2]) == 1.0
    for one, other in ((x[:1], y[:1]), (np.array([NAN, 1, 2]), y), (x, np.array([1, NAN, 2])), (x, np.full(3, NAN))):
        assert math.isnan(shape.kendall_tau(one, other))


def test_roughness_needs_three_nodes() -> None:
    assert math.isfinite(shape.entropy_roughness(np.array([1.0, 2.0, 4.0])))
    assert math.isnan(shape.entropy_roughness(np.array([1.0, 2.0])))
