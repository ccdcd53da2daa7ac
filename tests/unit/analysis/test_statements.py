"""The sentence: what is said of pairs whose truth is known, and never of any other."""

import numpy as np
import pytest

from spinal.analysis.statements import said, statements
from spinal.documents.base import Estimate, missing
from spinal.documents.comparison import AccountContrast, Comparison, Frame, Statement
from spinal.documents.localization import NO_CHANGE
from tests.support.contents import DEPTH, account, content, parts, setting
from tests.support.fabricated import changed_pair

EVERY = range(1, DEPTH + 1)
TEMPLATE = setting("chat_template", "a", "b", "chat template", computes=False)
ROPE = setting("rope_theta", "10000.0", "500.0")


def profile(*runs: tuple[int, int], of: float = 0.1, else_of: float = 0.0) -> np.ndarray:
    """(D,) ``of`` inside the runs of blocks, ``else_of`` outside."""
    return np.array([of if any(low <= block <= high for low, high in runs) else else_of for block in EVERY])


def others(*runs: tuple[int, int]) -> list[int]:
    return [block for block in EVERY if not any(low <= block <= high for low, high in runs)]


def kinds(found: tuple[Statement, ...], about: str) -> list[str]:
    return [one.kind for one in found if one.about == about]


def text(found: tuple[Statement, ...], about: str | None = None) -> str:
    return " ".join(one.text for one in found if about in (None, one.about))


EARLY = profile((1, 7))
BOTH_ENDS = profile((1, 7), (18, 24))
OUTLYING = profile((12, 12), of=0.4, else_of=0.03)

PAIRS: dict[str, tuple[Comparison, list[str], list[str]]] = {
    "blocks 1-7 changed": (
        content(EARLY, unchanged=others((1, 7))),
        ["Only blocks 1-7 changed; 8-24 are bit-identical.", "spread over the changed blocks, 1-7",
         "would need 6 for 80%"],
        ["depth", "8-24 s", "blocks 2-7"],
    ),
    "two bands": (
        content(BOTH_ENDS, unchanged=others((1, 7), (18, 24))),
        ["Only blocks 1-7 and 18-24 changed; 8-17 are bit-identical.", "two bands, blocks 1-7 and 18-24",
         "need 12 for 80%"],
        ["blocks 2-22", "spread over the depth"],
    ),
    "two bands and a trace of change between": (
        content(profile((1, 7), (18, 24), else_of=0.001)),
        ["two bands, blocks 1-", " and 18-"],
        ["spread", "2-22", "bit-identical"],
    ),
    "one block beside a small change everywhere": (
        content(OUTLYING),
        ["Block 12 stands out and holds 37% of",
         "The rest of the change in what blocks compute is spread over the depth"],
        ["4-20", "7-24", "bit-identical"],
    ),
    "one block": (
        content(profile((12, 12)), unchanged=others((12, 12))),
        ["Only block 12 changed", "all of the change in what blocks compute sits in block 12"],
        ["spread"],
    ),
    "two blocks exchanged": (
        content(profile((12, 13), of=1.5), unchanged=others((12, 13)), accounts={"kl": account(
            parts(profile((12, 12), of=0.003) + profile((13, 13), of=-0.0028)),
            read_out="kl", identical=[f"block {b}" for b in others((12, 13))], reason="cancelling",
            cancelling=("block 12", "block 13"),
        )}),
        ["Only blocks 12-13 changed", "cancel, most of all block 12 and block 13: shares would mislead"],
        ["block 12 carries"],
    ),
    "embeddings alone": (
        content(unchanged=EVERY, outside={"embeddings": 0.15}, accounts={"kl": account(
            parts(np.zeros(DEPTH), 0.02), read_out="kl", identical=[*(f"block {b}" for b in EVERY), "read-out"],
        )}),
        ["No block changed: all 24 are bit-identical; outside the blocks, the input embeddings (by 15%) changed.",
         "The input embeddings carry all of KL(reference || candidate)", "no block"],
        ["computes anything else", "configuration"],
    ),
    "unembedding alone": (
        content(unchanged=EVERY, outside={"head": 0.3, "embeddings": 0.0}, accounts={"kl": account(
            parts(np.zeros(DEPTH), read_out=0.06), read_out="kl",
            identical=[*(f"block {b}" for b in EVERY), "embeddings"],
        )}),
        ["the unembedding (by 30%) changed", "The read-out carries all of"],
        ["embeddings", "computes anything else"],
    ),
    "an earlier release, embeddings alone": (
        content(outside={"embeddings": 0.15}).model_copy(update={"layers": tuple(
            layer.model_copy(update={"weight_change": 0.0 if layer.layer else None}) for layer in content().layers
        )}),
        ["No block changed: all 24 hold the same tensors; outside the blocks, the input embeddings (by 15%) changed."],
        ["bit-identical"],
    ),
    "rope, same weights": (
        content(np.linspace(0.2, 0.4, DEPTH), identical=True, settings=[ROPE], accounts={"kl": account(
            parts(np.zeros(DEPTH), configuration=0.1), read_out="kl",
            identical=["embeddings", *(f"block {b}" for b in EVERY), "read-out"],
        )}),
        ["Both sides hold the same weights", "configuration differs in rope_theta: 10000.0 -> 500.0",
         "the same weights compute something else", "spread over the depth", "The configuration carries all of"],
        ["there is no change to place", "bit-identical", "No block"],
    ),
    "rope, as a checkpoint of its own": (
        content(np.linspace(0.2, 0.4, DEPTH), settings=[ROPE]).model_copy(update={"layers": tuple(
            layer.model_copy(update={
                "weight_change": 0.0 if layer.layer else None,
                "block_swap": Estimate(value=0.3) if layer.layer else layer.block_swap,
            })
            for layer in content().layers
        )}),
        ["Both sides hold the same weights", "configuration differs in rope_theta: 10000.0 -> 500.0",
         "the same weights compute something else", "spread over the depth"],
        ["there is no change to place", "bit-identical", "No block", "is exactly 0"],
    ),
    "equal tensors that are called otherwise, by no setting that is known": (
        content(profile((3, 9))).model_copy(update={"layers": tuple(
            layer.model_copy(update={
                "weight_change": 0.0 if layer.layer else None,
                "block_swap": Estimate(value=0.3 * (3 <= layer.layer <= 9)) if layer.layer else layer.block_swap,
            })
            for layer in content().layers
        )}),
        ["Both sides hold the same weights",
         "The change in what blocks compute is spread over the changed blocks, 3-9"],
        ["there is no change to place", "bit-identical", "No block", "is exactly 0"],
    ),
    "rope, where block swap was not measured so": (
        content(identical=True, settings=[ROPE], unchanged=()),
        ["No block computes anything else than in the reference on the prompts that were read; outside the blocks, "
         "configuration differs in rope_theta"],
        ["there is no change to place", "same configuration"],
    ),
    "a setting without effect on these prompts": (
        content(identical=True, settings=[setting("max_position_embeddings", "512", "4096")], unchanged=EVERY,
                accounts={"kl": account(parts(np.zeros(DEPTH)), read_out="kl", reason=NO_CHANGE)}),
        ["Both sides hold the same weights: every difference is exactly 0; configuration differs in "
         "max_position_embeddings: 512 -> 4096, which changes nothing on the prompts that were read."],
        ["something else", "the same configuration"],
    ),
    "a setting without effect beside changed blocks": (
        content(EARLY, unchanged=others((1, 7)), settings=[setting("max_position_embeddings", "512", "4096")],
                accounts={"kl": account(parts(EARLY), read_out="kl")}),
        ["Configuration differs in max_position_embeddings: 512 -> 4096, which changes nothing on the prompts that"],
        ["something else;", "carries the configuration"],
    ),
    "a configuration that is only written in another way": (
        content(identical=True, settings=[setting("tie_word_embeddings", "false", "true", computes=False)],
                unchanged=EVERY),
        ["Both sides hold the same weights: every difference is exactly 0; configuration differs in "
         "tie_word_embeddings: false -> true, which changes nothing that is compared here."],
        ["the same configuration", "shapes prompts"],
    ),
    "rows and experts that no prompt meets": (
        content(outside={"embeddings": 0.04, "head": 1e-5}, accounts={"kl": account(
            parts(np.zeros(DEPTH)), read_out="kl", reason=NO_CHANGE)}),
        ["No block computes anything else than in the reference on the prompts that were read, though the tensors of "
         "blocks 1-24 differ", "moves by exactly 0 on the prompts that were read", "(by less than 0.1%)"],
        ["(by 0%)"],
    ),
    "template alone": (
        content(identical=True, settings=[TEMPLATE, setting("temperature", "0.7", "1.0", "generation", computes=False)],
                unchanged=EVERY),
        ["Both sides hold the same weights and are run with the same configuration", "the chat template differs",
         "generation configuration differs in temperature: 0.7 -> 1.0", "nothing that is compared here"],
        ["no change to place"],
    ),
    "the same checkpoint": (
        content(identical=True, unchanged=EVERY),
        ["Both sides hold the same weights and are run with the same configuration: every difference is exactly 0."],
        ["not recorded", "differs in"],
    ),
    "the same weights, an earlier release": (
        content(identical=True),
        ["every difference is exactly 0; whether their configurations differ was not recorded."],
        ["the same configuration"],
    ),
    "permuted": (
        content(np.full(DEPTH, 4e-7), reason="within_rounding", accounts={"kl": account(
            parts(np.full(DEPTH, 1e-9)), read_out="kl", reason="within_rounding", floor=1e-6)}),
        ["Blocks compute the same within rounding", "lies within rounding, below 1 × 10⁻⁶ nats, ten times"],
        ["80%", "sits in", "bit-identical"],
    ),
    "residual scaled": (
        content(np.full(DEPTH, 1.0), reason="frame_changed", frame=Frame(changed=True, residual=0.001, gap=0.002),
                accounts={"margin": account(parts(np.ones(DEPTH)), reason="frame_changed")}),
        ["different bases (one rotation and scale leaves 0.1% over; outputs lie 0.002 rad apart)", "cannot be told"],
        ["80%", "sits in", "carry"],
    ),
    "a gain compensated in the next matrix": (
        content(unchanged=others((5, 5))),
        ["No block computes anything else than in the reference on the prompts that were read, though the tensors of "
         "block 5 differ."],
        ["sits in"],
    ),
    "nothing measured jointly": (
        content(reason="checkpoint_not_at_hand"),
        ["Whether and where blocks compute something else was not measured (checkpoint not at hand).",
         "What carries the change was not measured"],
        ["No block"],
    ),
    "a margin that says nothing": (
        content(np.full(DEPTH, 0.1), accounts={
            "margin": account(parts(np.full(DEPTH, 0.01)), reason="total_not_significant"),
            "kl": account(parts(np.full(DEPTH, 0.01), 0.01, 0.02), read_out="kl")}),
        ["the preference margin, +0.24 nats", "cannot be told from 0", "Of KL(reference || candidate) = 0.27 nats",
         "the input embeddings carry 3.7% [", "the read-out 7.4% ["],
        ["what blocks carry of the preference margin"],
    ),
    "a margin that is learned": (
        content(np.full(DEPTH, 0.1), accounts={
            "margin": account({**parts(np.full(DEPTH, 0.1), 0.05, 0.5), "block 1": 1.0}),
            "kl": account(parts(np.full(DEPTH, 0.01)), read_out="kl")}),
        ["Of the change of the preference margin, +3.85 nats", 
         "Of all places that carry the preference margin, block 1 (26% [", "read-out (13% [",
         "stand out.",
         "The rest of what blocks carry of the preference margin is spread over the depth", "blocks 17-24 carry"],
        ["KL"],
    ),
    "one block carries nearly all, beside noise": (
        content(np.full(DEPTH, 0.1), accounts={"kl": account(
            {**parts(0.001 * np.arange(DEPTH) ** 2 / DEPTH), "block 12": 1.0}, read_out="kl")}),
        ["Of all places that carry KL(reference || candidate), block 12 (8", " stands out."],
        ["block 23 (", "block 24 (", "the rest of what blocks carry"],
    ),
    "parts that cannot be told from 0 one by one": (
        content(np.full(DEPTH, 0.1), accounts={"kl": account(
            parts(profile((3, 9), of=0.01)), read_out="kl", error=0.2)}),
        ["What blocks carry of KL(reference || candidate) has no sure place among them"],
        ["3-8", "3-9", "stands out", "of what blocks carry of KL(reference || candidate) sits in"],
    ),
    "a margin that falls": (
        content(profile((12, 13)), unchanged=others((12, 13)), accounts={"margin": account(
            parts(-profile((12, 13))), 
            identical=["embeddings", "read-out", *(f"block {b}" for b in others((12, 13)))])}),
        ["Blocks carry all of the change of the preference margin, −0.2 nats", "spread over the changed blocks, 12-13"],
        ["stand out"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("read_out", "own", "none"), [
    # The floor is 1e-6: beside a KL of 0.02 rounding moves it by up to 2 sqrt(0.02 * 1e-6) = 2.8e-4, a margin by 1e-6.
    ("kl", 1e-4, True), ("kl", 1e-3, False), ("margin", 1e-7, True), ("margin", 1e-4, False),
])  # fmt: skip
def test_rounding_in_blocks_has_no_place_beside_a_change_elsewhere(read_out: str, own: float, none: bool) -> None:
    """Permuted blocks under other embeddings: what they carry is rounding, however surely it is measured."""
    blocks = own * np.where(np.arange(DEPTH) < 6, 1.0, 0.01) / 6.18
    made = account(parts(blocks, 0.02), read_out=read_out, error=0.0)  # type: ignore[arg-type]  # parametrised
    found = [one for one in statements(content(outside={"embeddings": 0.1}, accounts={read_out: made}))
             if one.about == read_out]  # fmt: skip
    assert any("no more than rounding makes of it" in one.text for one in found) is none
    assert any("sits in blocks 1-" in one.text for one in found) is not none
    assert "The input embeddings carry" in text(tuple(found)) or "the input embeddings carry" in text(tuple(found))


def in_a_frame(*, residual: float, hidden: float) -> tuple[Statement, ...]:
    """What is said of a pair whose outputs differ, whose last residuals differ by ``hidden`` of their length, and of
    which a rotation and scale leaves ``residual`` over."""
    made = content(np.full(DEPTH, 1.0), accounts={"kl": account(parts(np.full(DEPTH, 0.01)), read_out="kl")},
                   frame=Frame(changed=False, residual=residual, gap=0.3))  # fmt: skip
    signals = dict(made.damage.signals)
    signals["hidden_change"] = signals["hidden_change"].model_copy(update={"value": hidden})
    return statements(made.model_copy(update={"damage": made.damage.model_copy(update={"signals": signals})}))


@pytest.mark.parametrize(("residual", "hidden"), [(0.0005, 1.0), (0.15, 1.45), (0.2, 0.9), (0.2, 7.0)])
def test_another_basis_beside_a_change_places_nothing(residual: float, hidden: float) -> None:
    found = in_a_frame(residual=residual, hidden=hidden)
    assert kinds(found, "block_swap") == ["not_measured"]
    assert kinds(found, "kl") == ["not_measured"]
    assert "only write in another basis, cannot be told" in text(found)
    assert "spread" not in text(found)


@pytest.mark.parametrize(("residual", "hidden"), [(0.8, 1.42), (0.93, 9.8), (0.34, 0.36), (0.19, 0.23), (0.05, 0.3)])
def test_a_change_in_one_basis_is_placed(residual: float, hidden: float) -> None:
    """Those of trained models: a rotation explains next to nothing of what they differ by."""
    found = in_a_frame(residual=residual, hidden=hidden)
    assert kinds(found, "block_swap") == ["spread"]
    assert "basis" not in text(found)


@pytest.mark.parametrize("name", PAIRS)
def test_of_a_pair_whose_truth_is_known_the_truth_is_said(name: str) -> None:
    pair, must, never = PAIRS[name]
    found = statements(pair)
    whole = " ".join(f"{one.text} {one.null or ''}" for one in found)
    for expected in must:
        assert expected.lower() in whole.lower(), whole
    for wrong in never:
        assert wrong.lower() not in text(found).lower(), whole


@pytest.mark.parametrize("name", PAIRS)
def test_every_place_has_the_null_of_a_flat_profile(name: str) -> None:
    for one in statements(PAIRS[name][0]):
        if one.kind in ("outlier", "band", "spread", "unchanged"):
            assert one.null, one.text
            assert one.about != "weights" or one.kind == "unchanged", "weight change places nothing"


@pytest.mark.parametrize("name", PAIRS)
def test_no_block_is_called_unmoved_without_what_moved_beside_it(name: str) -> None:
    pair = PAIRS[name][0]
    for one in statements(pair):
        if one.text.startswith("No block") and (pair.weight_change_other or pair.settings):
            assert "outside the blocks" in one.text
    if pair.settings:
        assert all("no change to place" not in one.text for one in statements(pair))


def test_sentences_come_in_their_order() -> None:
    order = ["unchanged", "outside", "outlier", "band", "spread"]
    swap = profile((1, 17), of=0.02)
    swap[11] = 0.5
    found = statements(content(swap, unchanged=others((1, 17)), outside={"head": 0.1}, settings=[TEMPLATE]))
    said_of = [order.index(one.kind) for one in found if one.about in ("weights", "settings", "block_swap")]
    assert said_of == sorted(said_of)
    assert {order[i] for i in said_of} == {"unchanged", "outside", "outlier"} | {order[max(said_of)]}


def test_the_kl_account_is_said_to_look_alike_and_stands_beside_its_nulls() -> None:
    flat = account(parts(np.full(DEPTH, 0.01), 0.01, 0.01), read_out="kl")
    late = account(parts(profile((17, 24))), read_out="kl")
    contrast = AccountContrast(
        read_out="kl", prompts=64, total=Estimate(value=0.1, ci=(0.05, 0.15)), places={"embeddings": missing("none")}
    )
    found = statements(
        content(
            np.full(DEPTH, 0.1),
            accounts={"kl": flat},
            control_accounts={"kl": late},
            noise_accounts={"kl": flat},
            account_contrasts={"kl": contrast},
        )
    )
    null = next(one.null for one in found if one.about == "kl" and one.kind == "outside") or ""
    assert "the KL account looks alike for any fine-tune" in null
    assert "of the control's total, 0.8 nats" in null
    assert "candidate minus control is +0.1 nats [0.05, 0.15]" in null
    assert "random changes of the same size" in null
    assert "intervals cover prompts, not training seeds or other prompts" in null


def test_documents_of_earlier_releases_get_sentences_when_they_are_shown() -> None:
    pair = PAIRS["two bands"][0]
    assert pair.statements == ()
    assert said(pair) == statements(pair)
    kept = statements(PAIRS["one block"][0])
    assert said(pair.model_copy(update={"statements": kept})) == kept


def test_a_comparison_carries_its_sentences() -> None:
    made = changed_pair().compare()
    assert made.statements == statements(made)
    assert made.statements
    assert made.localization["block_swap"].reason != NO_CHANGE
