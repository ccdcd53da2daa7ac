"""How a model goes on: greedy continuations against transformers' own, scored tokens against float64, and the walk of
prompt and continuation in one pass against the walk of both apart."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.capture import OPTIONAL, Capture, load_capture
from spinal.documents.temperatures import TEMPERATURES
from spinal.documents.trace import Trace
from spinal.engine import behaviour
from spinal.engine.behaviour import Greedy, continue_greedily
from spinal.engine.ending import end_ids
from spinal.engine.nll import score_continuations
from spinal.engine.reporter import Reporter
from spinal.engine.session import Session, Setup, open_session
from spinal.engine.stream import BlockStore
from spinal.profile import MeasurementProfile
from spinal.progress import ignore_progress, never_cancelled
from spinal.prompts.sets import PromptSet
from tests.engine.conftest import KNOBS
from tests.engine.float64_models import logits, residuals
from tests.engine.test_golden import tokens_known

Tiny = Callable[..., Path]
Traced = Callable[..., tuple[Trace, Path]]
NOW: dict[str, Any] = {"name": "spinal/2", "greedy_prompts": 6, "greedy_tokens": 12}
FAMILIES = (
    "llama", "gpt2", "opt", "bloom", "mpt", "gemma2", "mistral", "gpt_neox", "mixtral", "falcon", "cohere", "mamba",
)  # fmt: skip
"""Rotary, learned and linear positions, windows, experts, a model without a cache of keys."""


def opened(folder: Path, prompts: PromptSet, *, stream: bool = False, **knobs: Any) -> Session:
    profile = MeasurementProfile(**(KNOBS | NOW | knobs))
    setup = Setup(prompts, profile, profile.batch_size, "cpu", stream, Reporter(ignore_progress, never_cancelled))
    return open_session(resolve_reference(os.fspath(folder), roots=None), setup)


@torch.inference_mode()
def continued(session: Session) -> Greedy:
    return continue_greedily(session, end_ids(session))


@torch.inference_mode()
def generated(folder: Path, session: Session, row: int, length: int = 12) -> tuple[int, ...]:
    """transformers' greedy continuation of one prompt by itself, over the ids that are read, up to its end."""
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids, ends = session.tokens.ids[row], list(end_ids(session))
    beyond = list(range(session.readout.vocabulary, session.anatomy.vocabulary))
    out = model.generate(
        torch.tensor([ids]),
        generation_config=transformers.GenerationConfig(
            do_sample=False, max_new_tokens=length, eos_token_id=ends or None, pad_token_id=0,
            suppress_tokens=beyond or None,
        ),
    )[0].tolist()[len(ids) :]  # fmt: skip
    return tuple(out[: next((place for place, index in enumerate(out) if index in ends), len(out))])


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_what_transformers_generates(family: str, tiny: Tiny, few: PromptSet) -> None:
    folder = tiny(family)
    session = opened(folder, few)
    found = continued(session)
    assert found.prompts.tolist() == sorted(session.tokens.order[:6])
    assert [generated(folder, session, row) for row in found.prompts.tolist()] == list(found.tokens)
    assert (found.length == [len(ids) for ids in found.tokens]).all()
    assert (found.ended == (found.length < 12)).all()


@pytest.mark.parametrize("proposal", ["raises", "wrong", "wrong from the third on"])
def test_a_wrong_proposal_costs_time_and_no_answer(
    proposal: str, tiny: Tiny, few: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(tiny("gpt2"), few)
    right, decoded = continued(session), behaviour._decoded

    def instead(*args: Any) -> list[tuple[int, ...]]:
        if proposal == "raises":
            raise TypeError("no cache")
        kept = 0 if proposal == "wrong" else 2
        return [(*row[:kept], *[7] * (len(row) - kept)) for row in decoded(*args)]

    monkeypatch.setattr(behaviour, "_decoded", instead)
    assert continued(session).tokens == right.tokens


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mamba"])
def test_the_cache_proposes_right_so_that_one_pass_settles(
    family: str, tiny: Tiny, few: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    read = behaviour._most_likely

    def counting(*args: Any) -> Any:
        passes.append(1)
        return read(*args)

    monkeypatch.setattr(behaviour, "_most_likely", counting)
    continued(opened(tiny(family), few))
    assert len(passes) == 1


def test_the_tests_models_do_not_say_one_thing_only(tiny: Tiny, few: PromptSet) -> None:
    said = {ids for family in ("llama", "gpt2") for ids in continued(opened(tiny(family), few)).tokens}
    assert len(said) > 6


def test_an_end_token_ends(tiny: Tiny, few: PromptSet, tmp_path: Path) -> None:
    """Whatever id the configuration names, alone or in a list: what came before it is what would have come."""
    import json
    import shutil

    folder = tiny("llama")
    whole = continued(opened(folder, few))
    end = whole.tokens[0][3]
    for named in (end, [2, end]):
        other = tmp_path / str(named)
        shutil.copytree(folder, other)
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | {"eos_token_id": named}))
        session = opened(other, few)
        assert end in end_ids(session)
        found = continued(session)
        for ids, before, ended in zip(found.tokens, whole.tokens, found.ended, strict=True):
            assert end not in ids
            assert ids == before[: len(ids)]
            assert ended == (len(ids) < 12)
        assert found.ended[0]


def test_prompts_give_way_where_the_context_does_not_hold_both(tiny: Tiny, few: PromptSet) -> None:
    """128 learned positions: 100 tokens more leave 64 for the prompt, and no position beyond the last is asked for."""
    folder = tiny("gpt2")
    session = opened(folder, few, max_tokens=120, greedy_tokens=100, greedy_prompts=2)
    assert max(len(session.tokens.ids[row]) for row in session.tokens.sampled(2)) > 64
    found = continued(session)
    assert (found.length[~found.ended] == 64).all()
    cut = session.narrowed(found.prompts).tokens.ids[0][-64:]
    again = opened(folder, few, max_tokens=64, greedy_tokens=64, greedy_prompts=2)
    assert cut == again.tokens.ids[int(found.prompts[0])][-64:]
    assert continued(again).tokens == found.tokens


def test_repetition_is_the_share_of_threes_seen_before() -> None:
    found = Greedy(np.arange(3), ((1, 2, 3), (1, 1, 1, 1), (1, 2, 3, 4)), np.zeros(3, dtype=bool))
    np.testing.assert_array_equal(found.repetition, [np.nan, 0.5, 0.0])


def measured(folder: Path, prompts: PromptSet, traced: Traced, **knobs: Any) -> Capture:
    return load_capture(traced(folder, prompts, **(NOW | knobs))[1])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("walked", ["joint", "apart"])
def test_scored_tokens_against_float64(family: str, walked: str, tiny: Tiny, few: PromptSet, traced: Traced) -> None:
    """NLL at every temperature, entropy and end tokens, of whole float64 distributions. Logits are float32: good to
    1e-5 of nats at temperature 1, and to that over the temperature below."""
    folder = tiny(family)
    session, known = opened(folder, few), tokens_known(folder)
    found = measured(folder, few, traced, continuation_walk=walked)
    assert found.nll_prompts.tolist() == sorted(session.tokens.continuations)
    ends = list(end_ids(session))
    assert ends
    for place, row in enumerate(found.nll_prompts.tolist()):
        ids, start = session.tokens.continuations[row]
        z = logits(folder, residuals(folder, ids)[-1, start - 1 :])[:, :known]
        targets = np.array(ids[start:])
        for tau, value in zip(TEMPERATURES, found.nll_tempered[place], strict=True):  # type: ignore[index]  # not None
            log_p = z / tau - np.logaddexp.reduce(z / tau, axis=-1, keepdims=True)
            expected = -log_p[np.arange(len(targets)), targets].mean()
            assert value == pytest.approx(expected, abs=1e-5 / min(tau, 1.0))
        log_p = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
        entropy = -(np.exp(log_p) * log_p).sum(-1)[:-1].mean()
        assert found.scored_entropy[place] == pytest.approx(entropy, abs=1e-5)  # type: ignore[index]  # not None
        end = np.logaddexp.reduce(log_p[-1, ends]) if row not in session.tokens.cut else np.nan
        assert found.end_log_p[place] == pytest.approx(end, abs=1e-5, nan_ok=True)  # type: ignore[index]  # not None
    np.testing.assert_allclose(found.nll_tempered[:, 6], found.nll, atol=1e-6)  # type: ignore[index]  # not None
    assert TEMPERATURES[6] == 1.0


def test_a_cut_continuation_has_no_end(tiny: Tiny, few: PromptSet, traced: Traced) -> None:
    folder = tiny("llama")
    prompts = PromptSet(few.prompts[:4], (" so.", " it is." * 40, None, " yes."))
    found = measured(folder, prompts, traced)
    assert found.nll_prompts.tolist() == [0, 1, 3]
    assert np.isnan(found.end_log_p).tolist() == [False, True, False]  # type: ignore[arg-type]  # not None


def test_prompts_are_scored_where_nothing_else_is(tiny: Tiny, few: PromptSet, traced: Traced) -> None:
    prompts = PromptSet(few.prompts, (None,) * len(few))
    trace, path = traced(tiny("llama"), prompts, **NOW)
    found = load_capture(path)
    assert trace.nll_source == "prompts"
    assert found.nll_tempered is not None
    # The same rows through the lens: two float32 read-outs in another order of blocks.
    np.testing.assert_allclose(found.nll_tempered[:, 6], found.nll, atol=1e-6)
    assert np.isnan(found.end_log_p).all()  # type: ignore[arg-type]  # not None
    short = PromptSet(("so it", "is it"), (None, None))
    assert measured(tiny("llama"), short, traced, max_tokens=8).greedy_prompts is not None


def test_one_pass_over_both_gives_what_two_give(tiny: Tiny, few: PromptSet, traced: Traced) -> None:
    """What stands behind a prompt does not reach its rows: float32 products in batches of other shapes, so 1e-5."""
    for family in ("llama", "opt", "mixtral", "bloom"):
        joint, apart = (
            measured(tiny(family), few, traced, continuation_walk=walked, max_tokens=100)
            for walked in ("joint", "apart")
        )
        for positions in ("last", "all"):
            one, other = joint.at(positions), apart.at(positions)
            np.testing.assert_allclose(one.transport, other.transport, atol=1e-5)
            np.testing.assert_allclose(one.entropy, other.entropy, atol=1e-5)
            np.testing.assert_allclose(one.alpha, other.alpha, atol=1e-5)
        np.testing.assert_allclose(joint.nll, apart.nll, atol=1e-5)
        assert (joint.nll_prompts == apart.nll_prompts).all()


def test_what_fits_is_walked_once_and_the_rest_as_before(
    tiny: Tiny, few: PromptSet, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinal.engine import nll, walk

    passed: list[int] = []
    original = walk._prepare_one

    def counting(anatomy: Any, batch: Any, source: str) -> Any:
        passed.extend(batch.members)
        return original(anatomy, batch, source)

    monkeypatch.setattr(walk, "_prepare_one", counting)
    scored: list[int] = []
    apart = nll._continued

    def scoring(session: Session, pairs: Any) -> Any:
        scored.append(len(pairs))
        return apart(session, pairs)

    monkeypatch.setattr(nll, "_continued", scoring)
    prompts = PromptSet(few.prompts[:6], (" so.", " yes." * 40, None, " no.", None, " it is."))
    folder = tiny("llama")
    session = opened(folder, prompts)
    fits = [row for row, (ids, at) in session.tokens.continuations.items() if ids[:at] == session.tokens.ids[row]]
    assert 0 < len(fits) < 4
    counts = {}
    for walked in ("joint", "apart"):
        passed.clear()
        scored.clear()
        traced(folder, prompts, **(NOW | {"greedy_prompts": 0, "continuation_walk": walked}))
        counts[walked] = len(passed)
        assert scored == [4 - len(fits) if walked == "joint" else 4]
    assert counts["apart"] - counts["joint"] == len(fits)


def test_streamed_is_whole(tiny: Tiny, few: PromptSet) -> None:
    folder = tiny("llama")
    whole, streamed = (continued(opened(folder, few, stream=stream)) for stream in (False, True))
    assert whole.tokens == streamed.tokens


def test_from_a_stream_no_more_than_one_read_of_the_model_is_made_for_a_token(
    tiny: Tiny, few: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many batches the prompts make: with a cache every batch would read the whole model for every token."""
    session = opened(tiny("llama"), few, stream=True, batch_size=2)
    entered: list[int] = []
    original = BlockStore.resident

    def counting(store: BlockStore, index: int) -> Any:
        entered.append(index)
        return original(store, index)

    monkeypatch.setattr(BlockStore, "resident", counting)
    assert len(continued(session).tokens) == session.profile.greedy_prompts > 2
    assert 0 < entered.count(0) <= session.profile.greedy_tokens + 1


@torch.inference_mode()
def test_a_continuation_on_which_the_model_overflows_has_no_probability(tiny: Tiny, few: PromptSet) -> None:
    """It is no continuation that was not scored: the panel counts it."""
    session = opened(tiny("llama"), few)
    whole = score_continuations(session, {}, end_ids(session))
    assert whole is not None
    prompt = int(whole.prompts[1])
    ids, start = session.tokens.continuations[prompt]
    overflowed = torch.full((len(ids) - start + 1, session.anatomy.head_weight.shape[1]), torch.nan)
    found = score_continuations(session, {prompt: overflowed}, end_ids(session))
    assert found is not None
    assert found.nll[1] == np.inf
    np.testing.assert_allclose(np.delete(found.nll, 1), np.delete(whole.nll, 1), rtol=1e-6)  # other batches


def test_a_capture_keeps_all_of_it(tiny: Tiny, few: PromptSet, traced: Traced) -> None:
    prompts = PromptSet(few.prompts, few.continuations, categories=("a", "b", None) * 8)
    found = measured(tiny("llama"), prompts, traced)
    assert all(getattr(found, name) is not None for name in OPTIONAL)
    assert found.categories == prompts.categories
    assert sorted(found.sample.tolist()) == list(range(24))  # type: ignore[union-attr]  # not None
    assert found.greedy_prompts.tolist() == sorted(found.sample[:6].tolist())  # type: ignore[union-attr,index]  # not None
    assert set(found.nll_prompts) == set(found.sample[:8])  # type: ignore[index]  # not None
    kept = {prompts.categories[row] for row in found.nll_prompts}
    assert kept == {"a", "b", None}


def test_a_trace_of_the_first_profile_keeps_none_of_it(tiny: Tiny, few: PromptSet, traced: Traced) -> None:
    _, path = traced(tiny("llama"), few, name="spinal/1")
    found = load_capture(path)
    assert [getattr(found, name) for name in OPTIONAL] == [None] * len(OPTIONAL)
    assert found.categories == ()
    assert set(found.nll_prompts) == set(range(8))
    with safe_open(path, framework="numpy") as file:
        assert set(file.metadata()) == {"schema", "trace_digest", "last.replicate_kind", "all.replicate_kind"}
        assert not set(file.keys()) & set(OPTIONAL)


def test_prompts_in_another_language_are_scored_although_they_come_last(
    tiny: Tiny, few: PromptSet, traced: Traced
) -> None:
    russian = [f"\n\nHuman: Почему небо голубое, вопрос {n}?\n\nAssistant:" for n in range(4)]
    prompts = PromptSet((*few.prompts, *russian), (*few.continuations, *(" Потому." for _ in russian)))
    found = measured(tiny("llama"), prompts, traced)
    assert sum(row >= len(few) for row in found.nll_prompts) == 4
    assert sum(row >= len(few) for row in found.greedy_prompts) >= 3  # type: ignore[union-attr]  # not None
    assert set(found.categories) == {"Latin script", "Cyrillic script"}
