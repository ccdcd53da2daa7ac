"""The runs of ``examples/series``: what is said of their history holds."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.places import EXAMPLES

WEIGHTS = "model.safetensors"


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``series.train`` with two checkpoints of one step each, and a break between them."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from series import train

    for name, value in {"EVERY": 1, "CHECKPOINTS": 2, "BREAKS": (1,), "START_STEPS": 1, "START_BATCH": 2}.items():
        monkeypatch.setattr(train, name, value)
    found: ModuleType = train
    return found


def few_texts(train: ModuleType) -> Any:
    """Enough of them for steps of three, and few to score."""
    texts = train.read_texts(train.AutoTokenizer.from_pretrained(train.SFT))
    held_out = {language: rows[:2] for language, rows in texts.held_out.items()}
    return replace(texts, pairs=texts.pairs[:4], held_out=held_out)


def test_runs_of_a_seed_are_the_same_up_to_the_break(train: ModuleType, tmp_path: Path) -> None:
    texts = few_texts(train)
    healthy = train.train(tmp_path, "healthy", 0, texts)
    for kind in ("spike", "flipped", "forgotten"):
        broken = train.train(tmp_path, kind, 0, texts)
        assert json.loads((broken / "history.json").read_text())["break_after"] == 1
        first, second = (
            [(run / f"checkpoint-{step}" / WEIGHTS).read_bytes() for run in (healthy, broken)] for step in (1, 2)
        )
        assert first[0] == first[1]
        assert second[0] != second[1]


def test_a_run_that_is_there_is_not_trained_again(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = few_texts(train)
    folder = train.train(tmp_path, "healthy", 0, texts)

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(train, "run", refuse)
    assert train.train(tmp_path, "healthy", 0, texts) == folder
    with pytest.raises(AssertionError, match="trained again"):
        train.train(tmp_path, "healthy", 1, texts)


def test_no_text_is_in_two_of_training_audit_and_held_out(train: ModuleType) -> None:
    from series.texts import text_ids

    tokenizer = train.AutoTokenizer.from_pretrained(train.SFT)
    texts = train.read_texts(tokenizer)
    trained = {(text.prompt, text.answer) for text in (*texts.german, *texts.english)}
    trained |= {(pair.prompt, answer) for pair in texts.pairs for answer in (pair.shorter, pair.longer)}
    held_out = {(text.prompt, text.answer) for rows in texts.held_out.values() for text in rows}
    audited = {
        (row.prompt, row.answer)
        for prompt, *answers in zip(
            texts.audited.prompts, texts.audited.continuations, texts.audited.rejected, strict=True
        )
        for answer in answers
        if answer is not None
        for row in [text_ids(tokenizer, str(prompt), answer)]
    }
    assert len(audited) >= 2 * 28 + 20 - 1
    assert not trained & held_out
    assert not trained & audited
    assert not held_out & audited
