"""Read-outs by themselves: closed forms, what is cut and what is dropped."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spinal.checkpoints.resolve import resolve_reference
from spinal.engine import read_outs
from spinal.engine.anatomy import Anatomy
from spinal.engine.answers import divergence, margin, refusal
from spinal.engine.read_outs import log_odds, read_rows
from spinal.engine.reporter import Reporter
from spinal.engine.session import Session, Setup, open_session
from spinal.engine.transport import Readout
from spinal.profile import MeasurementProfile
from spinal.progress import ignore_progress, never_cancelled
from spinal.prompts.sets import PromptSet
from tests.engine.conftest import KNOBS

Tiny = Callable[..., Path]
WIDTH, VOCABULARY = 16, 2500
"""More ids than go into one product, and no multiple of it."""


def never() -> None:
    """Nobody cancels."""


def made_readout(seed: int, size: float = 1.0) -> Readout:
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(WIDTH, VOCABULARY + 7, bias=False).requires_grad_(False)
    head.weight.data = size * torch.randn(VOCABULARY + 7, WIDTH, generator=generator)
    anatomy = Anatomy(nn.Identity(), nn.ModuleList(), (), (nn.Identity(),), head, 1.0, None)
    return Readout(anatomy, VOCABULARY)


def table(readout: Readout, rows: torch.Tensor) -> np.ndarray:
    """Log-probabilities (n, V), float64."""
    logits = rows.double() @ readout.anatomy.head_weight[:VOCABULARY].double().T
    return logits.log_softmax(-1).numpy()


@pytest.fixture
def states() -> torch.Tensor:
    return torch.randn(3, 9, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("size", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("at_once", [1, 1024])
def test_divergence_and_log_probability_are_those_of_whole_tables(
    size: float, at_once: int, states: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float32 logits carry a relative 1e-6; that of logits of 300 x 4 is 1e-3 nats."""
    monkeypatch.setattr(read_outs, "ROWS_AT_ONCE", at_once)
    first, second = made_readout(0, size), made_readout(1, size)
    groups = [(first, states), (second, states[:1])]
    tables = [table(first, part) for part in states] + [table(second, states[0])]
    with torch.inference_mode():
        found = read_rows(groups, None, never)
        targets = torch.randint(0, VOCABULARY, (9,), generator=torch.Generator().manual_seed(1))
        scored = read_rows(groups, targets, never)
    expected = [(np.exp(tables[0]) * (tables[0] - each)).sum(-1) for each in tables]
    tolerance = 1e-6 * max(1.0, 10 * size)
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=1e-5)
    np.testing.assert_allclose(scored, [each[np.arange(9), targets] for each in tables], atol=tolerance, rtol=1e-5)
    assert (found[0] == 0.0).all()
    assert (found[1:] > 0.0).all()


def test_equal_rows_are_apart_by_exactly_nothing_wherever_they_stand(states: torch.Tensor) -> None:
    many = torch.cat([states[:1]] * 40)
    with torch.inference_mode():
        assert (read_rows([(made_readout(0), many)], None, never) == 0.0).all()


def test_a_small_change_is_told_from_none(states: torch.Tensor) -> None:
    """KL of a change of 1e-4 in the logits is about 1e-8: the sums lose nothing of that (5% is the float32 logits)."""
    readout = made_readout(0, 0.3)
    nudged = states[:1] + 1e-4 * states[1:2]
    before, after = table(readout, states[0]), table(readout, nudged[0])
    expected = (np.exp(before) * (before - after)).sum(-1)
    with torch.inference_mode():
        found = read_rows([(readout, torch.cat([states[:1], nudged]))], None, never)[1]
    assert expected.min() > 1e-10
    assert expected.max() < 1e-6
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_log_odds_near_both_ends() -> None:
    p = np.array([1e-300, 1e-12, 0.25, 0.5])
    np.testing.assert_allclose(log_odds(np.log(p)), np.log(p) - np.log1p(-p), rtol=1e-14, atol=1e-15)
    # Rounding may sum probabilities to one or more.
    assert np.isfinite(log_odds(np.array([0.0, 1e-13]))).all()


def session_of(folder: Path, prompts: PromptSet, **knobs: Any) -> Session:
    profile = MeasurementProfile(**(KNOBS | knobs))
    setup = Setup(prompts, profile, 8, "cpu", False, Reporter(ignore_progress, never_cancelled))
    return open_session(resolve_reference(os.fspath(folder), roots=None), setup)


WORDS = "river stone light morning evening paper window garden winter summer"
PROMPTS = (WORDS, f"{WORDS} {WORDS}", "a river", "stone")
ANSWERS = (" yes", " no, never", None, " " + " ".join([WORDS] * 9))
OTHERS = (" certainly not", " yes", " maybe", " no")


def pairs(**more: Any) -> PromptSet:
    return PromptSet(PROMPTS, ANSWERS, rejected=OTHERS, **more)


def test_a_pair_that_does_not_fit_is_dropped_and_counted_and_prompts_are_cut_from_the_front(tiny: Tiny) -> None:
    session = session_of(tiny("llama"), pairs(), pair_tokens=24, stitch_prompts=4)
    read = margin(session)
    assert read is not None
    assert (read.prompts.tolist(), read.dropped, read.remarks) == ([0, 1], 1, ())
    encode = session.loaded.tokenizer.encode
    for place, ids in enumerate(read.ids):
        prompt, answer = PROMPTS[place // 2], (ANSWERS, OTHERS)[place % 2][place // 2]
        (whole,), (tail,) = encode([prompt], special=True), encode([answer or ""], special=False)
        other = encode([(OTHERS, ANSWERS)[place % 2][place // 2] or ""], special=False)[0]
        head = whole[-(24 - max(len(tail), len(other))) :]
        assert list(ids) == [*head, *tail]
        mine = read.sequence == place
        assert read.targets is not None
        assert read.targets[mine].tolist() == [*tail, session.loaded.tokenizer.wrapped.eos_token_id]
        assert read.position[mine].tolist() == list(range(len(head) - 1, len(head) + len(tail)))
    values = np.arange(len(read.sequence), dtype=float)
    sums = [values[read.sequence == place].sum() for place in range(4)]
    np.testing.assert_array_equal(read.fold(values), [sums[0] - sums[1], sums[2] - sums[3]])


def test_without_an_end_token_the_answers_end_open_and_that_is_said(tiny: Tiny) -> None:
    session = session_of(tiny("llama"), pairs(), stitch_prompts=4)
    session.loaded.tokenizer.wrapped.eos_token = None
    read = margin(session)
    assert read is not None
    assert read.targets is not None
    (tail,) = session.loaded.tokenizer.encode([" yes"], special=False)
    assert read.targets[read.sequence == 0].tolist() == tail
    assert "no end token" in read.remarks[0]


def test_there_is_no_margin_without_pairs_and_no_refusal_without_openings(tiny: Tiny, few: PromptSet) -> None:
    session = session_of(tiny("llama"), few)
    assert margin(session) is None
    assert refusal(session) is None
    none_whole = PromptSet(few.prompts[:2], (None, "x"), rejected=("y", None))
    read = margin(session_of(tiny("llama"), none_whole))
    assert read is not None
    assert len(read.prompts) == 0
    assert read.dropped == 0


def test_openings_that_another_begins_count_once(tiny: Tiny) -> None:
    given = ((" no", " no, never", " stone"), (), (), ())
    session = session_of(tiny("llama"), replace(pairs(), refusals=given), stitch_prompts=4)
    read = refusal(session)
    assert read is not None
    assert read.prompts.tolist() == [0]
    assert len(read.ids) == 2
    each = np.log([0.5, 0.25])
    values = np.zeros(len(read.sequence))
    for place in range(2):
        values[np.flatnonzero(read.sequence == place)[0]] = each[place]
    np.testing.assert_allclose(read.fold(values), [np.log(3.0)], rtol=1e-12)


def test_prompts_are_those_of_the_sample_in_the_order_of_the_set(tiny: Tiny) -> None:
    session = session_of(tiny("llama"), pairs(), stitch_prompts=2, stitch_tokens=8, pair_tokens=24)
    forwards, backwards = (
        replace(session, tokens=replace(session.tokens, order=order)) for order in ((0, 1, 2, 3), (3, 2, 1, 0))
    )
    assert [len(ids) for ids in divergence(forwards).ids] == [8, 8]
    read = divergence(backwards)
    assert read.prompts.tolist() == [2, 3]
    assert read.ids == session.tokens.ids[2:4]
    for each in (session, backwards):
        found = margin(each)
        assert found is not None
        assert (found.prompts.tolist(), found.dropped) == ([0, 1], 1)
