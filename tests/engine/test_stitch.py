"""Stitched models against real checkpoints on disk, and closed forms of the account (``docs/method.md``).

A telescoping sum holds whatever the stitched models inside are, so every one of them is held against its checkpoint.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spinal.audit import Ports, audit_pair, temporary_captures
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.evidence import AccountEvidence
from spinal.engine import stitch
from spinal.engine.api import gather_accounts
from spinal.engine.hybrids import Hybrids, embedding_tensors, tensors_of
from spinal.engine.place_accounts import account_of_noise
from spinal.engine.reporter import Reporter
from spinal.engine.session import Session, Setup, open_pair
from spinal.engine.tokens import lens_rows
from spinal.errors import Cancelled
from spinal.profile import MeasurementProfile
from spinal.progress import Progress, ignore_progress, never_cancelled
from spinal.prompts.sets import PromptSet
from tests.engine.conftest import KNOBS
from tests.engine.families import BLOCKS
from tests.engine.hybrid_checkpoints import log_probabilities, opened, write_hybrid

Tiny = Callable[..., Path]
Tensors = dict[str, torch.Tensor]
PROFILE = MeasurementProfile(**(KNOBS | {"batch_size": 4, "stitch_prompts": 6, "stitch_tokens": 12, "pair_tokens": 40}))
END = "<|endoftext|>"
"""The bundled tokenizer's end token."""
SETTINGS: dict[str, dict[str, Any]] = {
    "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "activation": {"hidden_act": "relu"},
    "epsilon": {"rms_norm_eps": 0.5},
    "softcap": {"final_logit_softcapping": 2.0},
}


@pytest.fixture(scope="session")
def asked(few: PromptSet) -> PromptSet:
    """Six prompts with two answers each, and openings of refusals."""
    answers = [(text or "").split(" ") for text in few.continuations[:6]]
    return PromptSet(
        few.prompts[:6],
        tuple(" " + " ".join(words[:5]) for words in answers),
        rejected=tuple(" " + " ".join(words[2:9]) for words in answers),
        refusals=tuple((" I can't", " I", " Sorry, but", " No") for _ in answers),
    )


def accounts(reference: Path, candidate: Path, prompts: PromptSet, **more: Any) -> dict[str, AccountEvidence]:
    sides = [resolve_reference(os.fspath(folder), roots=None) for folder in (reference, candidate)]
    found = gather_accounts(*sides, prompts=prompts, profile=more.pop("profile", PROFILE), **more)
    return {each.read_out: each for each in found}


def sessions(reference: Path, candidate: Path, prompts: PromptSet) -> tuple[Session, Session]:
    first, second = (resolve_reference(os.fspath(folder), roots=None) for folder in (reference, candidate))
    reporter = Reporter(ignore_progress, never_cancelled)
    return open_pair(first, second, Setup(prompts, PROFILE, 4, "cpu", False, reporter))


def parts(account: AccountEvidence) -> np.ndarray:
    """(Q, M)"""
    return 0.5 * (np.diff(account.forward, axis=1) - np.diff(account.backward, axis=1))


def changed(folder: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor], **config: Any) -> Path:
    shutil.copytree(folder, target)
    tensors = load_file(folder / "model.safetensors")
    made = {name: change(name, tensor.double()).float().contiguous() for name, tensor in tensors.items()}
    save_file(made, target / "model.safetensors", metadata={"format": "pt"})
    file = target / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return target


def noisy(pattern: str, size: float = 0.03, seed: int = 3) -> Callable[[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return tensor + size * noise if re.search(pattern, name) else tensor

    return change


def read_by_hand(folder: Path, reference: Path, prompts: PromptSet) -> dict[str, np.ndarray]:
    """h of a checkpoint that transformers loads, prompt by prompt and without padding, in float64 from its logits."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(reference / "tokenizer.json"))
    vocabulary, end = tokenizer.get_vocab_size(with_added_tokens=True), int(tokenizer.token_to_id(END) or 0)
    model, other = opened(folder), opened(reference)
    found: dict[str, list[float]] = {"kl": [], "margin": [], "refusal": []}
    for place, prompt in enumerate(prompts.prompts):
        ids = tokenizer.encode(str(prompt)).ids

        cut = ids[-PROFILE.max_tokens :][-PROFILE.stitch_tokens :]
        eligible, wanted = len(cut) - 1, int(PROFILE.lens_positions)
        where = sorted({1 + (i * (eligible - 1)) // (min(wanted, eligible) - 1) for i in range(min(wanted, eligible))})
        p, q = (log_probabilities(each, cut, vocabulary)[where] for each in (other, model))
        found["kl"].append(float((p.exp() * (p - q)).sum(-1).mean()))

        def score(answers: list[list[int]], ids: list[int] = ids) -> list[float]:
            # The last token of an answer is not fed.
            head = ids[-(PROFILE.pair_tokens + 1 - max(len(answer) for answer in answers)) :]
            scores = []
            for answer in answers:
                table = log_probabilities(model, (*head, *answer), vocabulary)
                scores.append(sum(float(table[len(head) - 1 + i, token]) for i, token in enumerate(answer)))
            return scores

        def encoded(text: str | None) -> list[int]:
            return list(tokenizer.encode(text or "", add_special_tokens=False).ids)

        chosen, rejected = score([[*encoded(t[place]), end] for t in (prompts.continuations, prompts.rejected)])
        found["margin"].append(chosen - rejected)
        # " I can't" begins with " I", and so does not count again.
        refused = float(np.exp(score([encoded(text) for text in (" I", " Sorry, but", " No")])).sum())
        found["refusal"].append(np.log(refused) - np.log1p(-refused))
    return {name: np.array(values) for name, values in found.items()}


def assert_every_mixture(reference: Path, candidate: Path, prompts: PromptSet, folder: Path, *, crossed: bool) -> None:
    """F_k and B_k for every k and every read-out. Tolerance: 1e-5 nats, or of the largest margin or log-odds, which
    are sums of log-probabilities that reach 80 nats; that is the rounding of float32 residuals and logits."""
    found = accounts(reference, candidate, prompts)
    count = BLOCKS + 2 + crossed
    by_hand: dict[str, dict[str, np.ndarray]] = {}
    for k in range(count + 1):
        for direction in ("forward", "backward"):
            sides = "a" * k + "b" * (count - k) if direction == "forward" else "b" * k + "a" * (count - k)
            if sides not in by_hand:
                configuration = sides[-1] if crossed else "b"
                made = write_hybrid(reference, candidate, sides[: BLOCKS + 2], configuration, folder / sides)
                by_hand[sides] = read_by_hand(made, reference, prompts)
            for name, values in by_hand[sides].items():
                assert found[name].places[-1] == ("configuration" if crossed else "read-out")
                got = getattr(found[name], direction)[:, k]
                scale = max(1.0, float(np.abs(values).max()))
                np.testing.assert_allclose(got, values, atol=1e-5 * scale, rtol=0, err_msg=f"{name} {sides}")
    assert np.abs(np.diff(found["kl"].forward, axis=1)).mean(axis=0).min() > 1e-4, "every place has to matter"


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gemma2", "gpt_neox", "mixtral", "gpt2"])
def test_every_stitched_model_is_the_checkpoint_with_those_places(
    family: str, tiny: Tiny, asked: PromptSet, tmp_path: Path
) -> None:
    assert_every_mixture(tiny(family), tiny(family, seed=1), asked, tmp_path, crossed=False)


@pytest.mark.parametrize(
    ("family", "setting"),
    [("llama", "rope_theta"), ("llama-tied", "activation"), ("llama", "epsilon"), ("gemma2", "softcap")],
)
def test_under_two_configurations_the_tensors_of_one_run_under_the_other(
    family: str, setting: str, tiny: Tiny, asked: PromptSet, tmp_path: Path
) -> None:
    other = changed(tiny(family, seed=1), tmp_path / "other", lambda _, tensor: tensor, **SETTINGS[setting])
    assert_every_mixture(tiny(family), other, asked, tmp_path, crossed=True)


def test_of_one_configuration_with_equal_tensors_only_the_configuration_counts(
    tiny: Tiny, asked: PromptSet, tmp_path: Path
) -> None:
    other = changed(tiny("llama"), tmp_path / "other", lambda _, tensor: tensor, **SETTINGS["activation"])
    for name, account in accounts(tiny("llama"), other, asked).items():
        assert account.identical.tolist() == [True] * (BLOCKS + 2) + [False]
        found = parts(account)
        assert (found[:, :-1] == 0.0).all()
        np.testing.assert_array_equal(found[:, -1], account.forward[:, -1] - account.forward[:, 0], err_msg=name)
        assert (np.abs(found[:, -1]) > 1e-6).all()


@pytest.mark.parametrize(("pattern", "place"), [(r"\.1\.", 2), ("embed_tokens", 0), (r"lm_head|model\.norm", 4)])
def test_one_changed_place_is_the_total_and_the_others_exactly_nothing(
    pattern: str, place: int, tiny: Tiny, asked: PromptSet, tmp_path: Path
) -> None:
    other = changed(tiny("llama"), tmp_path / "other", noisy(pattern))
    for account in accounts(tiny("llama"), other, asked).values():
        found = parts(account)
        assert np.flatnonzero(~account.identical).tolist() == [place]
        assert (np.delete(found, place, axis=1) == 0.0).all()
        np.testing.assert_array_equal(found[:, place], account.forward[:, -1] - account.forward[:, 0])
        assert (found[:, place] != 0.0).all()


def test_a_model_against_itself_is_exactly_nothing(tiny: Tiny, asked: PromptSet, tmp_path: Path) -> None:
    copied = shutil.copytree(tiny("mixtral"), tmp_path / "copied")
    for other in (tiny("mixtral"), copied):
        for account in accounts(tiny("mixtral"), other, asked).values():
            assert account.identical.all()
            assert (parts(account) == 0.0).all()


def test_two_exchanged_blocks(tiny: Tiny, asked: PromptSet, tmp_path: Path) -> None:
    """With x and y in places 2 and 3, exchanged in the candidate: the parts sum to the total and differ by
    h(y, y) - h(x, x), each told by a checkpoint of its own. Tolerance as above."""
    stored = load_file(tiny("gemma2") / "model.safetensors")
    numbers = {"x": "0", "y": "1"}

    def holding(first: str, second: str) -> Callable[[str, torch.Tensor], torch.Tensor]:
        def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
            for place, which in (("0", first), ("1", second)):
                if f".layers.{place}." in name:
                    return stored[name.replace(f".layers.{place}.", f".layers.{numbers[which]}.")].double()
            return tensor

        return change

    made = {
        pair: changed(tiny("gemma2"), tmp_path / pair, holding(*pair)) for pair in ("yx", "xx", "yy")
    }  # fmt: skip
    found = accounts(tiny("gemma2"), made["yx"], asked)
    h = {pair: read_by_hand(folder, tiny("gemma2"), asked) for pair, folder in made.items()}
    for name, account in found.items():
        first, second = parts(account)[:, 1], parts(account)[:, 2]
        total = account.forward[:, -1] - account.forward[:, 0]
        np.testing.assert_allclose(first + second, total, atol=1e-12)
        np.testing.assert_allclose(first - second, h["yy"][name] - h["xx"][name], atol=3e-5, err_msg=name)
        assert np.abs(first - second).max() > 1e-3


def test_streamed_accounts_are_the_whole_ones_bit_for_bit(tiny: Tiny, asked: PromptSet, tmp_path: Path) -> None:
    relu = changed(tiny("llama", seed=1), tmp_path / "relu", lambda _, tensor: tensor, **SETTINGS["activation"])
    for family, other in (("gemma2", tiny("gemma2", seed=1)), ("llama", relu)):
        whole, streamed = (accounts(tiny(family), other, asked, stream=stream) for stream in (False, True))
        for name, account in whole.items():
            np.testing.assert_array_equal(account.forward, streamed[name].forward)
            np.testing.assert_array_equal(account.backward, streamed[name].backward)


def test_residuals_that_do_not_fit_memory_go_in_several_sweeps_and_the_account_says_so(
    tiny: Tiny, asked: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = tiny("llama"), tiny("llama", seed=1)
    once = accounts(*sides, asked)
    monkeypatch.setattr(stitch, "WAITING_BYTES", 1)
    often = accounts(*sides, asked)
    for name, account in once.items():
        np.testing.assert_array_equal(account.forward, often[name].forward)
        np.testing.assert_array_equal(account.backward, often[name].backward)
        assert account.remarks == ()
        assert "every block was read" in often[name].remarks[-1]


def test_permuted_neurons_and_heads_carry_nothing_beyond_rounding(tiny: Tiny, asked: PromptSet, tmp_path: Path) -> None:
    """The same function: KL is second order in the rounding of logits, margins first order."""
    generator = torch.Generator().manual_seed(0)
    neurons, heads = torch.randperm(96, generator=generator), torch.tensor([2, 3, 0, 1])
    rows = (heads[:, None] * 16 + torch.arange(16)).flatten()
    pairs = (torch.tensor([1, 0])[:, None] * 16 + torch.arange(16)).flatten()

    def permuted(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if "gate_proj" in name or "up_proj" in name:
            return tensor[neurons]
        if "down_proj" in name:
            return tensor[:, neurons]
        if "q_proj" in name:
            return tensor[rows]
        if "k_proj" in name or "v_proj" in name:
            return tensor[pairs]
        return tensor[:, rows] if "o_proj" in name else tensor

    found = accounts(tiny("llama"), changed(tiny("llama"), tmp_path / "other", permuted), asked)
    assert np.flatnonzero(~found["kl"].identical).tolist() == [1, 2, 3]
    assert np.abs(parts(found["kl"])).max() < 1e-10
    assert np.abs(parts(found["margin"])).max() < 1e-4


def test_a_stitched_model_that_overflows_is_not_a_number_and_no_error(
    tiny: Tiny, asked: PromptSet, tmp_path: Path
) -> None:
    other = changed(tiny("llama"), tmp_path / "other", lambda name, t: t * 1e30 if ".1.mlp." in name else t)
    for account in accounts(tiny("llama"), other, asked).values():
        assert np.isnan(account.forward[:, 3:]).all()
        assert np.isfinite(account.forward[:, :3]).all()


@pytest.mark.parametrize("family", ["gemma4_text", "zamba2", "cohere", "opt-projected"])
def test_blocks_that_are_called_with_more_than_a_residual(family: str, tiny: Tiny, asked: PromptSet) -> None:
    """F_1 .. F_{D+1} against the model's own forward pass with the tensors of those places: arguments that come from
    the embeddings follow them, whichever side's block takes them. Tolerance as above."""
    folders = tiny(family), tiny(family, seed=1)
    prompts = PromptSet(asked.prompts[:2], asked.continuations[:2])
    found = accounts(*folders, prompts)["kl"]
    with torch.inference_mode():
        ours, theirs = sessions(*folders, prompts)
        ids = [tokens[-PROFILE.stitch_tokens :] for tokens in ours.tokens.ids]
        rows = lens_rows(tuple(ids), PROFILE.lens_positions)
        where = [rows.position[(rows.prompt == place) & rows.in_all] for place in range(2)]

        def read() -> list[torch.Tensor]:
            model, vocabulary = ours.loaded.model, ours.readout.vocabulary
            return [log_probabilities(model, each, vocabulary)[at] for each, at in zip(ids, where, strict=True)]

        before = read()
        parts = [(ours.anatomy.core, embedding_tensors(theirs.anatomy))]
        parts += [(mine, tensors_of(b)) for mine, b in zip(ours.anatomy.blocks, theirs.anatomy.blocks, strict=True)]
        for k, (module, tensors) in enumerate(parts, start=1):
            own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            head = ours.anatomy.head_weight.clone()
            for name, tensor in tensors.items():
                own[name].data = tensor  # a tied head is put back below
            ours.anatomy.head.weight = torch.nn.Parameter(head, requires_grad=False)
            expected = [float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(before, read(), strict=True)]
            np.testing.assert_allclose(found.forward[:, k], expected, atol=1e-5, err_msg=str(k))
            assert min(expected) > 1e-3


def test_noise_runs_under_the_configuration_of_the_reference(tiny: Tiny, asked: PromptSet, tmp_path: Path) -> None:
    """Whatever configuration the model came with that now holds the noise: its account is that of its tensors."""
    relu = changed(tiny("llama", seed=1), tmp_path / "relu", lambda _, tensor: tensor, **SETTINGS["activation"])
    plain = accounts(tiny("llama"), tiny("llama", seed=1), asked)["kl"]
    with torch.inference_mode():
        noise = account_of_noise(*sessions(tiny("llama"), relu, asked), (0.0, 1.0))
    assert noise.places == plain.places
    np.testing.assert_array_equal(noise.forward, plain.forward)
    np.testing.assert_array_equal(noise.backward, plain.backward)


def test_none_are_drawn_up_where_none_are_asked_for(tiny: Tiny, asked: PromptSet) -> None:
    none = PROFILE.model_copy(update={"stitch_prompts": 0})
    assert accounts(tiny("llama"), tiny("llama", seed=1), asked, profile=none) == {}


def test_progress_rises_and_a_cancelled_account_stops(tiny: Tiny, asked: PromptSet) -> None:
    told: list[Progress] = []
    accounts(tiny("llama"), tiny("llama", seed=1), asked, progress=told.append)
    fractions = [each.fraction for each in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert sum(each.phase == "accounts" for each in told) > BLOCKS
    told.clear()
    with pytest.raises(Cancelled, match="accounts"):
        accounts(
            tiny("llama"), tiny("llama", seed=1), asked, progress=told.append,
            cancelled=lambda: any(each.phase == "accounts" for each in told),
        )  # fmt: skip
    assert sum(each.phase == "accounts" for each in told) == 1


def test_a_block_is_left_before_all_mixtures_have_passed_it(
    tiny: Tiny, asked: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[int] = []
    original = Hybrids.run

    def counting(hybrids: Hybrids, configuration: str, tensors: str, index: int, *rest: Any) -> torch.Tensor:
        passed.append(index)
        return original(hybrids, configuration, tensors, index, *rest)

    monkeypatch.setattr(Hybrids, "run", counting)
    with pytest.raises(Cancelled, match="accounts"):
        accounts(tiny("llama"), tiny("llama", seed=1), asked, cancelled=lambda: bool(passed))
    assert passed == [0]


def test_a_control_is_accounted_for_beside_the_candidate(tiny: Tiny, asked: PromptSet, tmp_path: Path) -> None:
    folders = [tiny("llama"), changed(tiny("llama"), tmp_path / "a", noisy(r"\.2\.")),
               changed(tiny("llama"), tmp_path / "c", noisy(r"\.0\."))]  # fmt: skip
    sides = [resolve_reference(os.fspath(folder), roots=None) for folder in folders]
    told: list[Progress] = []
    with temporary_captures() as captures:
        ports = Ports(captures=captures, watch=lambda _: nullcontext(told.append))
        found = audit_pair(sides[0], sides[1], asked, PROFILE, ports=ports, control=sides[2])
    places = {}
    for role, given in (("candidate", found.accounts), ("control", found.control_accounts)):
        kl = given["kl"]
        assert kl.total.value is not None
        places[role] = [part.place for part in kl.places if part.phi.value != 0.0]
    assert places == {"candidate": ["block 3"], "control": ["block 1"]}
    compared = [each.fraction for each in told if each.phase not in ("walk", "lens", "greedy", "load", "hash", "store")]
    assert compared == sorted(compared)
