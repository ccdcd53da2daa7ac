"""Every checkpoint of known truth is audited against its own reference, and what was made for it is gone afterwards."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks.checkpoints.ancestors import Ancestor, Case
from benchmarks.checkpoints.known import make, reference
from benchmarks.checkpoints.pairs import read_pairs
from benchmarks.checkpoints.prompts import english_only, mixed
from benchmarks.verdicts import PROFILE, Auditor, judge

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
