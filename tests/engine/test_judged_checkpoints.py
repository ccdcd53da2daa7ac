"""Every checkpoint of known truth is audited against its own reference, and what was made for it is gone afterwards."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks import verdicts
from benchmarks.checkpoints.ancestors import Ancestor, Case
from benchmarks.checkpoints.calibration import Row
from benchmarks.checkpoints.known import make, reference
from benchmarks.checkpoints.pairs import read_pairs
from benchmarks.checkpoints.prompts import english_only, mixed
from benchmarks.verdicts import PROFILE, Auditor, judge
from spinal.prompts.sets import PromptSet

Tiny = Callable[..., Path]
SMALL = PROFILE.model_copy(
    update={"max_tokens": 32, "swap_prompts": 8, "stitch_prompts": 0, "greedy_prompts": 4, "greedy_tokens": 8}
)


def test_rows_of_known_checkpoints(tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny("llama")
    untied = reference(folder, tmp_path / "untied")
    prompts = mixed(read_pairs(None)[1], AutoTokenizer.from_pretrained(folder), english=8)
    usual = [str(prompt) for prompt in prompts.prompts[:8]]
    cases = tuple(
        Case(name, truth, untied, partial(lambda one, out: make(one, folder, out, usual), name))  # type: ignore[arg-type]  # one of the truths
        for name, truth in (("copy", "good"), ("negated-rows", "bad"), ("language-lost", "bad"))
    )
    made = tmp_path / "made"
    made.mkdir()
    rows = list(judge(Ancestor("tiny", cases, prompts), Auditor(made, SMALL), made, ["copy", "negated-rows"]))
    assert [(row.name, row.truth) for row in rows] == [("copy", "good"), ("negated-rows", "bad")]
    copy, negated = (row.signals["nll_change"]["value"] for row in rows)
    assert copy == 0.0
    assert negated != 0.0
    assert [path.name for path in made.iterdir()] == ["reference-0"]


def test_prompts_carry_their_categories_and_the_shorter_answer_first(tiny: Tiny) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny("llama"))
    prompts = mixed(read_pairs(None)[1], tokenizer, english=8)
    english = english_only(prompts)
    assert len(english) == 8
    assert set(prompts.categories) == {"english", "russian", "german", "code"}
    lengths = [
        [len(tokenizer(text)["input_ids"]) for text in (preferred or "", other or "")]
        for preferred, other in zip(english.continuations, english.rejected, strict=True)
    ]
    assert all(short < long for short, long in lengths)


def test_a_benchmark_that_breaks_off_says_what_it_met_and_neither_counts_nor_saves_the_part_that_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks_off(*_: object) -> Iterator[Row]:
        yield Row("bundled", "copy", "good", "pass")
        raise RuntimeError("met in the midst")

    monkeypatch.setattr(verdicts, "prepare", lambda name, *_: Ancestor(name, (), PromptSet(("p",), (None,))))
    monkeypatch.setattr(verdicts, "judge", breaks_off)
    kept = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["verdicts", "--ancestor", "bundled", "--save", str(kept)])
    with pytest.raises(RuntimeError, match="met in the midst"):
        verdicts.main()
    assert not kept.exists()
    told = capsys.readouterr().out
    assert "copy" in told
    assert "all ancestors" not in told
