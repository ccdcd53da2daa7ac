"""What is known of a prompt beside its continuation: the rejected answer, refusals, its category; read from every
format, kept by selections, and part of the identity."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from spinal.documents.canonical import digest_of
from spinal.errors import PromptSetInvalid
from spinal.local import read_prompts
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.formats import Source, parse_prompts
from spinal.prompts.records import read_entry
from spinal.prompts.sets import MAX_CATEGORIES, MAX_CATEGORY, MAX_REFUSALS, PromptSet
from tests.unit.test_prompt_files import parquet_of

RECORDS: list[dict[str, Any]] = [
    {"prompt": "why?", "chosen": " so.", "rejected": " no.", "refusal": " I will not", "category": "reasons"},
    {"prompt": "how?", "chosen": " thus.", "rejected": " not.", "refusal": "", "category": " "},
]


def test_every_format_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    table = csv.DictWriter(written, fieldnames=list(RECORDS[0]))
    table.writeheader()
    table.writerows(RECORDS)
    files = {
        "p.jsonl": "\n".join(json.dumps(record) for record in RECORDS).encode(),
        "p.json": json.dumps(RECORDS).encode(),
        "p.csv": written.getvalue().encode(),
        "p.parquet": parquet_of([{"id": 7} | record for record in RECORDS], monkeypatch),
    }
    found = {name: parse_prompts(Source(name, raw)) for name, raw in files.items()}
    for made in found.values():
        assert made.continuations == (" so.", " thus.")
        assert made.rejected == (" no.", " not.")
        assert made.refusals == ((" I will not",), ())
        assert made.categories == ("reasons", None)
    assert len({made.digest for made in found.values()}) == 1


SIDES: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "hh-rlhf pair": (
        {"chosen": "\n\nHuman: why?\n\nAssistant: so.", "rejected": "\n\nHuman: why?\n\nAssistant: no."},
        " so.", " no.",
    ),
    "both answers behind the prompt": (
        {"prompt": "why?", "chosen": "why? so.", "rejected": "why? no."}, " so.", " no.",
    ),
    "chats behind the prompt": (
        {
            "prompt": "why?",
            "chosen": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so."}],
            "rejected": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "no."}],
        },
        "so.", "no.",
    ),
    "a chat, and answers alone": (
        {
            "prompt": [{"role": "user", "content": "why?"}],
            "chosen": [{"role": "assistant", "content": "so."}],
            "rejected": [{"role": "assistant", "content": "no."}],
        },
        "so.", "no.",
    ),
    "pair of chats": (
        {
            "chosen": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so."}],
            "rejected": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "no."}],
        },
        "so.", "no.",
    ),
    "a continuation and its rejected half": (
        {"prompt": "why?", "continuation": " so.", "rejected": " no."}, " so.", " no.",
    ),
    "a continuation that is no half of the pair": (
        {"prompt": "why?", "continuation": " it is.", "chosen": " so.", "rejected": " no."}, " it is.", None,
    ),
    "answers that cannot be told apart": ({"prompt": "why?", "chosen": " so.", "rejected": "so. "}, " so.", None),
    "a chat on something else": (
        {"prompt": "why?", "chosen": [{"role": "user", "content": "how?"}, {"role": "assistant", "content": "so."}]},
        None, None,
    ),
    "a label where an answer would be": ({"prompt": "why?", "chosen": 0, "rejected": 1}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", SIDES)
def test_both_halves_of_a_pair_are_kept(kind: str) -> None:
    record, continuation, rejected = SIDES[kind]
    found = read_entry(record, "here")
    assert found is not None
    assert (found.continuation, found.rejected) == (continuation, rejected)


def test_any_record_may_have_a_category_and_refusals() -> None:
    kinds: list[dict[str, Any]] = [
        {"text": "why?"},
        {"messages": [{"role": "user", "content": "why?"}]},
        {"chosen": "\n\nHuman: why?\n\nAssistant: so.", "rejected": "\n\nHuman: why?\n\nAssistant: no."},
    ]
    for record in kinds:
        found = read_entry(record | {"category": " a ", "refusal": ["I can't", "I can't", " ", "No"]}, "here")
        assert found is not None
        assert (found.category, found.refusals) == ("a", ("I can't", "No"))
    numbered: list[Any] = [kinds[0] | {"category": 3}, "how?"]
    made = read_prompts(numbered)
    assert made.categories == ("3", None)


@pytest.mark.parametrize(
    "further",
    [
        {"category": ["a"]},
        {"category": True},
        {"category": "x" * (MAX_CATEGORY + 1)},
        {"category": "a\x1b[2K"},
        {"category": "\ud800"},
        {"refusal": {"a": 1}},
        {"refusal": ["a", 1]},
        {"refusal": [str(n) for n in range(MAX_REFUSALS + 1)]},
        {"refusal": "x" * 2000},
        {"refusal": "\ud800"},
        {"chosen": " so.", "rejected": " \ud800"},
    ],
)
def test_what_is_not_clean_is_refused_by_its_place(further: dict[str, Any]) -> None:
    given: list[Any] = ["how?", {"prompt": "why?"} | further]
    with pytest.raises(PromptSetInvalid, match="prompt 2"):
        read_prompts(given)


def test_more_categories_than_are_told_apart_are_refused() -> None:
    records = [{"prompt": f"why {n}?", "category": f"kind {n}"} for n in range(MAX_CATEGORIES + 1)]
    assert len(read_prompts(records[:-1]).categories) == MAX_CATEGORIES
    with pytest.raises(PromptSetInvalid, match=f"{MAX_CATEGORIES + 1} categories"):
        read_prompts(records)


def test_members_that_say_nothing_leave_the_identity_as_it_was() -> None:
    plain = PromptSet(("a b", "c d"), (None, " e"))
    empty = PromptSet(("a b", "c d"), (None, " e"), None, (None, None), ((), ()), (None, None))
    assert plain == empty
    assert plain.digest == empty.digest == digest_of({"prompts": ("a b", "c d"), "continuations": (None, " e")})
    further: list[dict[str, Any]] = [
        {"rejected": (None, " f")},
        {"refusals": (("no",), ())},
        {"categories": ("x", None)},
    ]
    assert len({plain.digest, *(PromptSet(plain.prompts, plain.continuations, **one).digest for one in further)}) == 4


def test_members_belong_to_their_prompts_through_duplicates_and_selections() -> None:
    given: list[Any] = [*RECORDS, {"prompt": "why?", "category": "later"}, {"prompt": " "}, "what?"]
    made = read_prompts(given)
    assert made.categories == ("reasons", None, None)
    taken = made.chosen([2, 0], "two")
    assert taken == PromptSet(
        ("what?", "why?"), (None, " so."), "two", (None, " no."), ((), (" I will not",)), (None, "reasons")
    )
    assert made.chosen([2]).digest == PromptSet(("what?",), (None,)).digest
    with pytest.raises(PromptSetInvalid, match="rejected differ in number"):
        PromptSet(("a", "b"), (None, None), rejected=("c",))


def test_the_built_in_pairs_prefer_the_shorter_answer() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path("examples/checkpoints/sft/tokenizer.json")))
    pairs, held_out = builtin_prompts("hh-shorter-256"), builtin_prompts("hh-harmless-512")
    length = {text: len(tokenizer.encode(text, add_special_tokens=False).ids)
              for text in (*pairs.continuations, *pairs.rejected) if text}  # fmt: skip
    assert all(
        length[short or ""] < length[long or ""]
        for short, long in zip(pairs.continuations, pairs.rejected, strict=True)
    )
    known = dict(zip(held_out.prompts, held_out.continuations, strict=True))
    # One half of each is the answer of the held-out set, so every pair was held out.
    assert all(
        known[prompt] in (short, long)
        for prompt, short, long in zip(pairs.prompts, pairs.continuations, pairs.rejected, strict=True)
    )
    assert builtin_prompts("hh-shorter-64") == pairs.chosen(range(64), "hh-shorter-64")
