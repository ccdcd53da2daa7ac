"""Accounts of what carries a change: parts, shares, and why there are none."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spinal.analysis.accounts import account, parts
from spinal.analysis.carried import contrast, mean_of_draws
from spinal.analysis.statements.carries import speaking
from spinal.analysis.uncertainty import draw_shares
from spinal.documents.account import Account
from spinal.documents.evidence import AccountEvidence
from spinal.errors import TracesNotComparable
from tests.support.fabricated import Pair, changed_pair

BLOCKS, PROMPTS, TERMINAL = 10, 48, (7, 10)
PLACES = ("embeddings", *(f"block {k}" for k in range(1, BLOCKS + 1)), "read-out")
SHARES = draw_shares(PROMPTS, 400, 0)


def made(
    phi: Any,
    *,
    count: int = PROMPTS,
    spread: float = 0.1,
    interaction: float = 0.0,
    seed: int = 0,
    places: tuple[str, ...] = PLACES,
    **changes: Any,
) -> AccountEvidence:
    """Evidence whose parts are ``phi`` (M,) times a factor of each prompt; the paths differ by ``interaction``."""
    sizes = np.asarray(phi, dtype=np.float64)
    factor = 1 + spread * np.random.default_rng(seed).standard_normal((count, 1))
    # What the forward path gives more at a changed place than the backward one has to add up to nothing.
    changed = sizes != 0.0
    apart = np.where(changed, interaction * np.where(np.cumsum(changed) % 2, 1.0, -1.0), 0.0)
    forward = np.concatenate([np.zeros((count, 1)), np.cumsum(factor * (sizes + apart), axis=1)], axis=1)
    backward = np.cumsum((factor * (sizes - apart))[:, ::-1], axis=1)[:, ::-1]
    made = AccountEvidence(
        read_out="margin",
        places=places,
        prompts=np.arange(count),
        forward=forward,
        backward=np.concatenate([backward, np.zeros((count, 1))], axis=1),
        identical=~changed,
    )
    return replace(made, **changes)


LATE = np.array([0.2, 0.1, 0.15, 0, 0, 0, 0.12, 0.5, 0.55, 0.6, 0.45, 0.4])


def told(evidence: AccountEvidence, **options: Any) -> Account:
    return account(evidence, SHARES, TERMINAL, **options)


def test_parts_are_half_of_what_both_paths_add_and_their_shares_are_of_the_total() -> None:
    found = told(made(LATE, interaction=0.05))
    factor = float(np.mean(1 + 0.1 * np.random.default_rng(0).standard_normal(PROMPTS)))
    # Sums of a few doubles.
    assert [part.phi.value for part in found.places] == pytest.approx(list(LATE * factor), rel=1e-12)
    assert [part.interaction for part in found.places] == pytest.approx(
        list(np.where(LATE, 0.05 * factor, 0.0)), rel=1e-9
    )
    assert [part.share.value for part in found.places] == pytest.approx(list(LATE / LATE.sum()), rel=1e-12)
    assert found.total.value == pytest.approx(LATE.sum() * factor, rel=1e-12)
    assert (found.reason, found.total.significant, found.prompts) == (None, True, PROMPTS)
    assert found.blocks_terminal_share.value == pytest.approx(LATE[7:11].sum() / LATE[1:11].sum(), rel=1e-12)
    assert found.localization is not None
    assert (found.localization.peak, found.localization.terminal_share_null) == (9, 0.4)
    assert [(part.place, part.block) for part in found.places][:2] == [("embeddings", None), ("block 1", 1)]


def test_identical_places_carry_exactly_nothing() -> None:
    """Even where rounding made something of running them."""
    evidence = made(LATE)
    found = told(replace(evidence, forward=evidence.forward + 1e-9 * np.arange(len(PLACES) + 1)))
    for part, size in zip(found.places, LATE, strict=True):
        assert part.identical is bool(size == 0.0)
        if not size:
            assert (part.phi.value, part.phi.ci, part.share.value, part.interaction) == (0.0, (0.0, 0.0), 0.0, 0.0)
            assert part.phi.significant is False


def test_what_changed_everywhere_is_flagged_and_noise_is_not() -> None:
    noise = np.random.default_rng(3).standard_normal((PROMPTS, len(PLACES)))
    evidence = made(LATE)
    found = told(
        replace(evidence, forward=evidence.forward + np.concatenate([np.zeros((PROMPTS, 1)), np.cumsum(noise, 1)], 1))
    )
    flags = [part.phi.significant for part in found.places]
    assert flags[7:10] == [True] * 3
    assert not any(flags[3:6])


def test_a_total_that_may_be_nothing_gives_no_shares() -> None:
    found = told(made(LATE, spread=20.0))
    assert found.reason == "total_not_significant"
    assert {part.share.reason for part in found.places} == {"total_not_significant"}
    assert all(part.phi.value is not None for part in found.places)
    assert found.localization is not None
    assert found.localization.reason == found.blocks_terminal_share.reason == "total_not_significant"
    assert found.total.significant is False


@pytest.mark.parametrize(("floor", "reason"), [(None, None), (2.0, None), (4.0, "within_rounding")])
def test_kl_is_told_from_rounding_by_its_floor_alone(floor: float | None, reason: str | None) -> None:
    """It is never negative, so its interval never holds 0."""
    found = told(made(LATE, read_out="kl"), floor=floor)
    assert (found.reason, found.total.significant, found.floor) == (reason, reason is None, floor)
    one = told(made(LATE, read_out="kl", count=1, spread=0.0), floor=floor)
    assert (one.reason, one.total.ci) == (reason, None)


def test_parts_that_cancel_give_no_shares_and_name_the_largest_pair() -> None:
    phi = LATE.copy()
    phi[3], phi[8] = -3.0, 4.0
    found = told(made(phi))
    assert (found.reason, found.cancelling) == ("cancelling", ("block 3", "block 8"))
    assert found.total.significant
    assert found.places[3].share.reason == "cancelling"
    phi[3] = -0.1
    assert told(made(phi)).cancelling is None


def test_a_changed_frame_leaves_the_total_alone() -> None:
    found = told(made(LATE), frame_changed=True, floor=0.1)
    assert found.reason == "frame_changed"
    assert {part.phi.reason for part in found.places} == {"frame_changed"}
    assert found.total.value is not None
    # Below the floor there is nothing that the frame could have faked.
    assert told(made(LATE), frame_changed=True, floor=10.0).reason == "within_rounding"


def test_blocks_have_tests_of_their_own() -> None:
    outside = np.zeros(len(PLACES))
    outside[[0, -1]] = 1.0
    found = told(made(outside))
    assert found.reason is None
    assert found.places[0].share.value == pytest.approx(0.5, rel=1e-12)
    assert found.blocks_terminal_share.reason == "no_detectable_change"
    assert found.localization is not None
    assert found.localization.reason == "no_detectable_change"
    outside[[2, 5]] = 0.4, -0.39
    assert told(made(outside)).blocks_terminal_share.reason == "cancelling"
    evidence = made(outside)
    # Blocks 2 and 5 vary from prompt to prompt around parts that are small beside that.
    shaken = 3 * np.random.default_rng(0).standard_normal((PROMPTS, 1)) * np.eye(len(PLACES))[4]
    varied = evidence.forward + np.concatenate([np.zeros((PROMPTS, 1)), np.cumsum(shaken, axis=1)], axis=1)
    found = told(replace(evidence, forward=varied, identical=np.zeros(len(PLACES), dtype=bool)))
    assert (found.reason, found.blocks_terminal_share.reason) == (None, "blocks_not_significant")


def test_of_a_shrinking_total_what_goes_its_way_is_placed() -> None:
    found = told(made(-LATE))
    assert found.total.value is not None
    assert found.total.value < 0
    assert found.localization == told(made(LATE)).localization


def test_one_prompt_or_none() -> None:
    one = told(made(LATE, count=1, spread=0.0))
    assert (one.reason, one.total.ci, one.total.value) == ("one_prompt", None, pytest.approx(3.07))
    none = told(made(LATE, count=0))
    assert (none.reason, none.total.reason, none.prompts) == ("no_prompts", "no_prompts", 0)
    assert len(none.places) == len(PLACES)
    assert none.localization is None


def test_prompts_that_overflow_are_left_out_and_counted() -> None:
    evidence = made(LATE)
    evidence.forward[5, 3] = np.nan
    evidence.backward[9, 0] = np.inf
    found = told(evidence)
    rest = np.delete(np.arange(PROMPTS), [5, 9])
    assert found.prompts == PROMPTS - 2
    assert found.total.value == pytest.approx(parts(evidence)[rest].sum(axis=1).mean(), rel=1e-12)
    assert "2 of 48 prompts" in found.remarks[-1]
    evidence.forward[:] = np.nan
    assert told(evidence).reason == "not_finite"


def test_an_account_that_was_not_drawn_up_says_why() -> None:
    nothing = np.empty((0, 0))
    found = told(
        AccountEvidence(
            "margin", (), np.empty(0, np.int64), nothing, nothing, np.empty(0, bool), dropped=7, absent="no_pairs"
        )
    )
    assert (found.reason, found.total.reason, found.places, found.dropped) == ("no_pairs", "no_pairs", (), 7)
    assert speaking({"margin": found}) is found, "it says why it is silent"


def test_the_margin_speaks_where_it_is_significant_and_has_shares_and_kl_else() -> None:
    sure, unsure = told(made(LATE)), told(made(LATE, spread=20.0))
    cancelling = told(made(np.where(np.arange(LATE.size) % 2, 1.0, -0.9)))
    assert cancelling.reason == "cancelling"
    kl = told(made(LATE, read_out="kl"))
    assert speaking({"margin": sure, "kl": kl}) is sure
    assert speaking({"margin": unsure, "kl": kl}) is kl
    assert speaking({"margin": cancelling, "kl": kl}) is kl
    assert speaking({"margin": unsure}) is unsure
    assert speaking({}) is None


def test_a_contrast_is_paired_over_common_prompts() -> None:
    mine, theirs = made(LATE, spread=0.5), made(LATE * 0.5, spread=0.5)
    held = np.array([40, 3, 8, 21, 30, 11, 5])
    control = replace(theirs, prompts=held, forward=theirs.forward[held], backward=theirs.backward[held])
    found = contrast(mine, control, SHARES)
    assert found is not None
    assert found.prompts == held.size
    expected = (parts(mine) - parts(theirs))[np.sort(held)]
    assert found.total.value == pytest.approx(expected.sum(axis=1).mean(), rel=1e-12)
    assert [one.value for one in found.places.values()] == pytest.approx(list(expected.mean(axis=0)), rel=1e-12)
    same = contrast(mine, mine, SHARES)
    assert same is not None
    assert (same.total.value, same.total.ci, same.total.significant) == (0.0, (0.0, 0.0), False)
    assert contrast(mine, replace(theirs, prompts=theirs.prompts + PROMPTS), SHARES) is None
    assert contrast(mine, replace(theirs, absent="no_pairs"), SHARES) is None


def test_a_place_of_one_side_alone_carries_nothing_of_the_other() -> None:
    mine = made([*LATE, 0.3], places=(*PLACES, "configuration"))
    found = contrast(mine, made(LATE), SHARES)
    assert found is not None
    assert found.places["configuration"].value == pytest.approx(float(parts(mine)[:, -1].mean()), rel=1e-12)


def test_draws_of_noise_are_averaged_over_the_prompts_of_all() -> None:
    draws = [made(LATE * size, read_out="kl", seed=seed) for seed, size in enumerate((1.0, 2.0, 6.0))]
    draws[1].forward[4] = np.nan
    overflowed = replace(draws[0], forward=np.full_like(draws[0].forward, np.nan))
    mean = mean_of_draws([*draws, overflowed])
    rest = np.delete(np.arange(PROMPTS), 4)
    assert mean.prompts.tolist() == rest.tolist()
    expected = np.mean([parts(draw)[rest] for draw in draws], axis=0)
    # Sums of a few doubles in another order.
    assert parts(mean) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert "3 draws" in mean.remarks[0]
    assert "1 more" in mean.remarks[0]
    assert mean_of_draws([overflowed]).absent == "not_finite"


def pair_with(*accounts: AccountEvidence, **changes: Any) -> Pair:
    pair = changed_pair(prompts=PROMPTS)
    return replace(pair, evidence=replace(pair.evidence, accounts=accounts, **changes))


def test_a_comparison_holds_accounts_those_of_control_and_noise_and_their_contrast() -> None:
    kl = made(LATE, read_out="kl")
    pair = pair_with(kl, made(LATE), noise_accounts=(kl, made(LATE * 3, read_out="kl")))
    found = pair.compare(control_accounts=(made(LATE / 2),))
    assert list(found.accounts) == ["kl", "margin"]
    assert found.noise_accounts["kl"].total.value == pytest.approx(2 * (found.accounts["kl"].total.value or 0))
    assert list(found.control_accounts) == list(found.account_contrasts) == ["margin"]
    assert found.account_contrasts["margin"].total.significant
    assert not any("looks alike for any fine-tune" in warning for warning in found.warnings)


def test_an_account_of_kl_says_that_it_looks_alike_for_any_fine_tune() -> None:
    warnings = pair_with(made(LATE, read_out="kl")).compare().warnings
    assert sum("looks alike for any fine-tune" in warning for warning in warnings) == 1
    assert sum("no account of a control" in warning for warning in warnings) == 1
    assert sum("another seed of the training" in warning for warning in warnings) == 1


def test_a_total_like_the_control_s_is_said() -> None:
    warnings = pair_with(made(LATE)).compare(control_accounts=(made(LATE, seed=1),)).warnings
    assert any("cannot be told from that of the control" in warning for warning in warnings)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": np.full(PROMPTS, 3)},
        {"prompts": np.arange(PROMPTS) + 1},
        {"forward": np.zeros((PROMPTS, len(PLACES)))},
        {"backward": np.zeros((PROMPTS - 1, len(PLACES) + 1))},
        {"identical": np.zeros(3, dtype=bool)},
        {"places": PLACES[:-2]},
    ],
)
def test_accounts_of_other_pairs_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TracesNotComparable, match="account of margin"):
        pair_with(made(LATE, **changes)).compare()


@pytest.mark.parametrize(
    "changes",
    [
        {"swap_prompts": np.arange(PROMPTS) + 1},
        {"swap_prompts": np.zeros(PROMPTS, dtype=np.int64)},
        {"swap_prompts": np.arange(PROMPTS - 1)},
        {"top_changed": np.zeros(3)},
        {"identical_blocks": np.zeros(3, dtype=bool)},
    ],
)
def test_evidence_of_other_shapes_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TracesNotComparable, match=next(iter(changes))):
        pair_with(**changes).compare()


def test_swapped_prompts_are_weighed_by_their_own_draws() -> None:
    """The first prompts by name are those without a name; others have the draws of their own."""
    pair = changed_pair(prompts=PROMPTS)
    few: dict[str, Any] = {
        "block_swap": pair.evidence.block_swap[:8],
        "block_swap_transport": pair.evidence.block_swap_transport[:8],
    }
    plain, named, other = (
        replace(pair, evidence=replace(pair.evidence, **few, swap_prompts=chosen)).compare()
        for chosen in (None, np.arange(8), np.arange(20, 28))
    )
    assert plain == named
    intervals = [found.layers[9].block_swap.ci for found in (named, other)]
    assert intervals[0] != intervals[1]


def test_a_comparison_takes_floors_and_the_frame_from_the_pair() -> None:
    small = pair_with(made(LATE * 1e-10, read_out="kl"), made(LATE * 1e-5))
    found = small.compare().accounts
    assert {name: of.reason for name, of in found.items()} == {"kl": "within_rounding", "margin": "within_rounding"}
    assert all(
        of.floor is not None and of.total.value is not None and of.total.value < of.floor for of in found.values()
    )
    pair = pair_with(made(LATE))
    turned = replace(
        pair.evidence,
        frame_residual=0.01,
        hidden_change={name: values * 0 + 1.0 for name, values in pair.evidence.hidden_change.items()},
        function_gap={name: values * 0.01 for name, values in pair.evidence.function_gap.items()},
    )
    told_ = replace(pair, evidence=turned).compare(control_accounts=(made(LATE / 2),))
    assert told_.frame is not None
    assert told_.frame.changed
    assert told_.accounts["margin"].reason == "frame_changed"
    assert (told_.control_accounts["margin"].reason, told_.account_contrasts) == (None, {})
    assert not any("no account of a control" in warning for warning in told_.warnings), "there is one"
