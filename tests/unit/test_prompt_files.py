"""Prompt files are recognised by what they are; what is left out is counted; what cannot be read is refused by name."""

import contextlib
import csv
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinal import local
from spinal.documents.canonical import digest_of
from spinal.errors import PromptFileNotFound, PromptSetEmpty, PromptSetInvalid
from spinal.prompts.builtin import BUILTIN_SETS, builtin_prompts
from spinal.prompts.formats import Source, parse_prompts
from spinal.prompts.load import load_prompts
from spinal.prompts.records import Entry, read_entry
from spinal.prompts.sets import Message, PromptSet, prompt_from_json, prompt_to_json

TWO = ["How, do I plant a tree?", 'Why is "it" blue?']
CHAT = [{"role": "user", "content": TWO[0]}, {"role": "assistant", "content": "Dig."}]
PAIR = {"chosen": "\n\nHuman: why?\n\nAssistant: so.", "rejected": "\n\nHuman: why?\n\nAssistant: no."}


def lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def table(delimiter: str, *rows: tuple[str, ...]) -> str:
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter).writerows(rows)
    return written.getvalue()


HEADED = (("id", "Prompt", "continuation"), ("1", TWO[0], " Dig."), ("2", TWO[1], ""))
RECORDS = [{"prompt": TWO[0], "continuation": " Dig."}, {"prompt": TWO[1]}]
FILES: dict[str, tuple[str, str]] = {
    "text": ("p.txt", "\n".join(TWO)),
    "text under another name": ("prompts", "\n".join(TWO) + "\n"),
    "JSON list": ("p.json", json.dumps(TWO)),
    "JSON list over many lines": ("p.json", json.dumps(TWO, indent=2)),
    "JSON list in a text file": ("p.txt", json.dumps(TWO)),
    "JSON list of records": ("p.json", json.dumps(RECORDS)),
    "JSON list behind a comment": ("p.json", "// two\n" + json.dumps(TWO)),
    "object that holds a list": ("p.json", json.dumps({"name": "two", "prompts": TWO})),
    "JSON lines in .json": ("p.json", lines(*RECORDS)),
    "JSON strings": ("p.jsonl", lines(*TWO)),
    "JSON strings in a text file": ("p.txt", lines(*TWO)),
    "JSON lines": ("p.jsonl", lines(*RECORDS)),
    "JSON lines behind a comment": ("p.jsonl", "# two\n\n" + lines(*RECORDS)),
    "JSON lines behind a comment, without a name": ("prompts", "// two\n" + lines(*RECORDS)),
    "CSV": ("p.csv", table(",", *HEADED)),
    "CSV without a name": ("prompts.txt", table(",", *HEADED)),
    "CSV of a spreadsheet": ("p.csv", "\ufeff" + table(";", *HEADED)),
    "TSV": ("p.tsv", table("\t", *HEADED)),
    "one column": ("p.csv", table(",", ("prompt",), *((prompt,) for prompt in TWO))),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_prompts_in_every_format(kind: str, packed: bool, tmp_path: Path) -> None:
    name, content = FILES[kind]
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    assert load_prompts(str(path)).prompts == tuple(TWO)


@pytest.mark.parametrize("kind", [kind for kind, (_, content) in FILES.items() if "Dig." in content])
def test_continuations_belong_to_their_prompts(kind: str) -> None:
    name, content = FILES[kind]
    assert parse_prompts(Source(name, content.encode())).continuations == (" Dig.", None)


CHATS: dict[str, object] = {
    "messages": {"messages": CHAT},
    "a list of messages": CHAT,
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": TWO[0]}]}, CHAT[1]]},
    "conversations": {"conversations": [{"from": "human", "value": TWO[0]}, {"from": "gpt", "value": "Dig."}]},
    "prompt of messages": {"prompt": CHAT[:1], "continuation": "Dig."},
    "preference pair": {"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "No."}]},
}


@pytest.mark.parametrize("kind", CHATS)
@pytest.mark.parametrize("write", [lines, lambda *values: json.dumps(values)])
def test_chats_stay_chats_until_a_template_is_known(kind: str, write: Callable[..., str]) -> None:
    made = parse_prompts(Source("p.jsonl" if write is lines else "p.json", write(CHATS[kind]).encode()))
    assert made.prompts == ((Message("user", TWO[0]),),)
    assert made.continuations == ("Dig.",)
    assert tuple(map(prompt_from_json, json.loads(json.dumps(list(map(prompt_to_json, made.prompts)))))) == made.prompts


def test_one_document_may_be_one_chat() -> None:
    assert len(parse_prompts(Source("p.json", json.dumps(CHAT, indent=1).encode()))) == 1


def test_digests_are_those_of_before_and_say_whether_a_prompt_is_a_chat() -> None:
    # RFC 8785 over texts, as every stored prompt set was named until now.
    made = PromptSet(("a b", "c d"), (None, " e"), "named")
    assert made.digest == digest_of({"prompts": ("a b", "c d"), "continuations": (None, " e")})
    assert PromptSet(((Message("user", "a b"),),), (None,)).digest != PromptSet(("a b",), (None,)).digest
    assert [builtin_prompts(name).digest[:12] for name in BUILTIN_SETS] == [
        "3d72b6c1a5c3", "c5fc3da64d4b", "5e368e45e627", "30e69aa64fa4", "5fecd78708ed", "0d5c5edef475",
    ]  # fmt: skip
    assert builtin_prompts("hh-harmless-64").remarks == ()


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "YAML by its name": ("p.yaml", b"- how?\n- why?\n", "YAML"),
    "YAML by its content": ("p.txt", b"# two\nprompts:\n  - how?\n", "YAML"),
    "YAML document": ("prompts", b"---\n- prompt: how?\n", "YAML"),
    "YAML records": ("prompts", b"- prompt: how?\n- prompt: why?\n", "YAML"),
    "TOML": ("prompts", b'[[prompts]]\nprompt = "how?"\n', "TOML"),
    "a web page": ("p.txt", b"<!DOCTYPE html>\n<html>", "HTML"),
    "elements": ("p.txt", b"<prompts>\n<p>how?</p>\n</prompts>\n\n", "HTML or XML"),
    "an element with attributes": ("prompts", b'<set name="a">\n<p>how?</p>\n</set>', "HTML or XML"),
    "elements by their name": ("p.xml", b"<p>how?</p>\n<p>why?</p>\n", "HTML or XML"),
    "Markdown": ("p.md", b"# Prompts\n\n- how?\n- why?\n", "Markdown"),
    "Python": ("p.py", b'prompts = [\n  "how?",\n]\n', "Python"),
    "INI": ("p.ini", b"how = do I?\n", "INI"),
    "a spreadsheet": ("p.xlsx", b"PK\x03\x04rest", "zip"),
    "UTF-16": ("p.txt", "\ufeffhow do I?".encode("utf-16-le"), "UTF-16"),
    "Latin-1": ("p.txt", "wie geht das für dich?".encode("latin-1"), "not UTF-8"),
    "NUL": ("p.txt", b"how\0do", "NUL"),
    "a broken list": ("p.json", b'["how?",\n "why?"', "not JSON"),
    "a broken list without a name": ("prompts", b'["how?", "why?"', "not JSON"),
    "a list of another language": ("prompts", b"['how?', 'why?']", "not JSON"),
    "no JSON": ("p.json", b"how do I?\n", "not JSON"),
    "text in .jsonl": ("p.jsonl", b'{"prompt": "a b"}\nhow do I?\n', "line 2: not JSON"),
    "numbers": ("p.jsonl", b"1\n2\n", "line 1: expected"),
    "numbers in a list": ("p.json", b'["a b", 2]', "entry 2: expected"),
    "other members": ("p.jsonl", b'{"question": "how?"}\n', "it has 'question'"),
    "a table without a header": ("p.csv", b"how do I?,so\nwhy?,no\n", "names no column"),
    "a ragged table": ("p.csv", b"prompt,continuation\nhow?,so,no\n", "line 2: 3 cells"),
    "an open quote": ("p.csv", b'prompt\n"how do I?\n', "not a table"),
    "half a surrogate pair": ("p.jsonl", b'{"prompt": "x y"}\n{"prompt": "a \\ud800 b"}\n', "line 2: half of"),
    "half a pair in an answer": ("p.jsonl", b'{"prompt": "a b", "continuation": "\\udfff"}\n', "line 1: half of"),
    "half a pair in a chat": ("p.json", b'[{"messages": [{"role": "user", "content": "\\ud800"}]}]', "entry 1: half"),
    "nesting": ("p.jsonl", b'\n{"prompt": "x y", "m": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", "line 2: nested"),
    "nesting of all": ("p.json", b"[" * 5000 + b"]" * 5000, "nested"),
    "nesting that never ends": ("p.json", b"[" * 100_000, "nested"),
    "long numbers": ("p.jsonl", b'{"prompt": ' + b"1" * 5000 + b"}", "line 1: not JSON"),
    "a chat without text": ("p.jsonl", b'{"messages": [{"role": "user"}]}', "line 1, message 1"),
    "an empty chat": ("p.jsonl", b'{"messages": []}', "line 1: a chat without"),
    "an image": ("p.jsonl", b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "message 1"),
    "not Parquet": ("p.parquet", b"PAR1", "Parquet"),
    "damaged gzip": ("p.gz", b"\x1f\x8b\x08\x00junk", "cannot be read"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_prompt_file_is_refused_by_what_it_is(kind: str, tmp_path: Path) -> None:
    name, content, says = REFUSED[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PromptSetInvalid) as caught:
        load_prompts(str(tmp_path / name))
    assert says in caught.value.detail
    assert "\n" not in caught.value.detail
    assert str(tmp_path) not in caught.value.detail


TEXTS = [
    "[INST] how? [/INST]",
    "[1] how?",
    '"Why?" he asked.\nNobody knew.',
    "- how do I?\n- why?",
    "# a heading\nhow do I?",
    "Question: how?\nAnswer: so",
    "prompt, please\nand then another, and one more",
    "---\nhow do I?",
    "[section]\nhow do I?",
    "a\tb\nc\td",
    "<think>\nhow do I?",
    "<|user|>\nhow do I?\n</|user|>",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_looks_like_something_else_is_text(text: str) -> None:
    assert parse_prompts(Source("p.txt", text.encode())).prompts == tuple(text.split("\n"))


def test_a_header_without_a_table_is_remarked() -> None:
    (remark,) = parse_prompts(Source("p.txt", b"prompt\nhow do I?\n")).remarks
    assert "looks like the header" in remark


COUNTED = {
    "blank lines": ("p.txt", "how do I?\n\n \nwhy?\n", "left out 2 (2 blank)"),
    "blank lines and comments": ("p.jsonl", "# x\n\n" + lines(*RECORDS), "left out 2 (1 blank, 1 comment lines)"),
    "repeated": ("p.json", json.dumps([*TWO, *TWO]), "left out 2 (2 seen before)"),
    "unusable pairs": (
        "p.jsonl",
        lines(*[PAIR | {"chosen": PAIR["chosen"].replace("why", f"why {n}"),
                        "rejected": PAIR["rejected"].replace("why", f"why {n if n % 2 else 'else'}")}
                for n in range(24)]),
        "left out 12 (12 with no prompt and answer to tell apart)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COUNTED)
def test_what_is_left_out_is_counted(kind: str) -> None:
    name, content, says = COUNTED[kind]
    assert parse_prompts(Source(name, content.encode())).remarks == (f"{name}: {says}",)


EMPTY = [("p.txt", ""), ("p.txt", "\n \n"), ("p.json", "[]"), ("p.json", '["", " "]'), ("p.csv", "prompt\n"),
         ("p.jsonl", "# nothing\n")]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), EMPTY)
def test_files_without_prompts(name: str, content: str) -> None:
    with pytest.raises(PromptSetEmpty):
        parse_prompts(Source(name, content.encode()))


@pytest.mark.parametrize("name", ["nowhere.txt", "x" * 5000, "a\0b"])
def test_what_is_no_file(name: str) -> None:
    with pytest.raises(PromptFileNotFound):
        load_prompts(name)


@pytest.mark.parametrize("given_prompts", [["a \ud800"], [1], [["a"]], [None], [[{"role": "user"}]]])
def test_prompts_from_python_are_checked_alike(given_prompts: Any) -> None:
    with pytest.raises(PromptSetInvalid, match="prompt 1"):
        local.read_prompts(given_prompts)
    assert local.read_prompts([CHAT]).continuations == ("Dig.",)


def test_parquet_needs_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PromptSetInvalid, match="pyarrow") as caught:
        parse_prompts(Source("p", b"PAR1...PAR1"))
    assert "'parquet'" in str(caught.value.hint)


def parquet_double(rows: list[dict[str, object]]) -> tuple[ModuleType, ModuleType]:
    """pyarrow as far as it is used, for machines without it: a table of these rows."""

    class ParquetFile:
        def __init__(self, _stream: io.BytesIO) -> None:
            self.schema_arrow = type("Schema", (), {"names": list(rows[0])})

        def read(self, columns: list[str]) -> Any:
            kept = [{name: row[name] for name in columns} for row in rows]
            return type("Table", (), {"to_pylist": lambda _self: kept})()

    whole, part = ModuleType("pyarrow"), ModuleType("pyarrow.parquet")
    whole.ArrowException = type("ArrowException", (Exception,), {})  # type: ignore[attr-defined]  # a double
    part.ParquetFile = ParquetFile  # type: ignore[attr-defined]  # a double
    whole.parquet = part  # type: ignore[attr-defined]  # a double
    return whole, part


def parquet_of(rows: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        for name, module in zip(("pyarrow", "pyarrow.parquet"), parquet_double(rows), strict=True):
            monkeypatch.setitem(sys.modules, name, module)
        return b"PAR1"
    written = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), written)
    return written.getvalue()


def test_parquet_holds_records(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = parquet_of([{"id": 1, "prompt": TWO[0], "continuation": None}, {"id": 2, "prompt": TWO[1],
                      "continuation": " So."}], monkeypatch)  # fmt: skip
    made = parse_prompts(Source("p", raw))
    assert (made.prompts, made.continuations) == (tuple(TWO), (None, " So."))


def test_parquet_holds_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    made = parse_prompts(Source("p.parquet", parquet_of([{"messages": CHAT}], monkeypatch)))
    assert made.prompts == ((Message("user", TWO[0]),),)


def test_parquet_without_prompts_names_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = parquet_of([{"question": "how?"}], monkeypatch)
    with pytest.raises(PromptSetInvalid, match="'question'"):
        parse_prompts(Source("p.parquet", raw))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
PROMPTS = st.lists(TEXT, min_size=1, max_size=5, unique=True)
WRITERS: dict[str, Callable[[list[str]], str]] = {
    "p.jsonl": lambda prompts: lines(*({"prompt": prompt} for prompt in prompts)),
    "strings.jsonl": lambda prompts: lines(*prompts),
    "p": lambda prompts: json.dumps([{"prompt": prompt} for prompt in prompts], ensure_ascii=False),
    "p.json": lambda prompts: json.dumps(prompts, indent=1),
    "p.csv": lambda prompts: table(",", ("prompt", "n"), *((prompt, "1") for prompt in prompts)),
    "p.tsv": lambda prompts: table("\t", ("n", "prompt"), *(("1", prompt) for prompt in prompts)),
}


@pytest.mark.parametrize("name", WRITERS)
@settings(deadline=None)
@given(prompts=PROMPTS)
def test_what_was_written_is_read(name: str, prompts: list[str]) -> None:
    assert parse_prompts(Source(name, WRITERS[name](prompts).encode())).prompts == tuple(prompts)


@settings(deadline=None)
@given(raw=st.binary(max_size=60), name=st.sampled_from(["p.txt", "p.json", "p.jsonl", "p.csv", "p.yaml", "p"]))
def test_no_file_breaks_the_reader(raw: bytes, name: str) -> None:
    with contextlib.suppress(PromptSetInvalid, PromptSetEmpty):
        assert parse_prompts(Source(name, raw)).prompts


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "prompt",
                    "messages",
                    "chosen",
                    "rejected",
                    "role",
                    "content",
                    "text",
                    "type",
                    "from",
                    "value",
                    "category",
                    "refusal",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(entry=JSON)
def test_no_record_breaks_the_reader(entry: Any) -> None:
    try:
        found = read_entry(entry, "here")
    except PromptSetInvalid:
        return
    if found is not None and found.prompt:
        PromptSet(
            (found.prompt,),
            (found.continuation,),
            rejected=(found.rejected,),
            refusals=(found.refusals,),
            categories=(found.category,),
        )


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl", "p"])
def test_lines_that_end_in_carriage_returns_are_lines(name: str) -> None:
    written = {
        "p.csv": table(",", ("prompt", "continuation"), *((prompt, "yes") for prompt in TWO)),
        "p.jsonl": lines(*TWO),
    }.get(name, "\n".join(TWO))
    ends = [written.replace("\r\n", "\n").replace("\n", end) for end in ("\n", "\r\n", "\r")]
    assert [parse_prompts(Source(name, each.encode())).prompts for each in ends] == [tuple(TWO)] * 3


@pytest.mark.parametrize("name", ["p.txt", "p", "p.csv"])
def test_a_cell_beyond_what_the_table_reader_takes_is_text_or_refused(name: str) -> None:
    text = "river, stone " * 20_000
    with contextlib.suppress(PromptSetInvalid):
        assert parse_prompts(Source(name, text.encode())).prompts == (text,)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "prompt,prompt\na,b\n"),
        ("p.csv", "id,Prompt,id, prompt \n1,a,2,b\n"),
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}\n'),
        ("p.json", '[{"messages": [{"role": "user", "content": "a", "content": "b"}]}]'),
    ],
)
def test_what_is_said_twice_is_refused(name: str, text: str) -> None:
    with pytest.raises(PromptSetInvalid, match=r"more than once|twice"):
        parse_prompts(Source(name, text.encode()))


@pytest.mark.parametrize(
    "record",
    [
        {
            "messages": [
                {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
                {"role": "tool", "content": "r"},
            ]
        },
        {"messages": [{"role": "assistant", "content": None, "function_call": {"name": "f"}}]},
        {"messages": [{"role": "user", "content": "u"}], "tools": [{"type": "function"}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}, {"type": "text", "text": "u"}]}]},
        {"prompt": [{"role": "user", "content": [{"type": "input_audio"}]}]},
    ],
)
def test_a_chat_of_more_than_text_is_refused_by_what_it_holds(record: Any) -> None:
    with pytest.raises(PromptSetInvalid, match="only text is read"):
        read_entry(record, "record 1")


@pytest.mark.parametrize("completion", ["Dig.", [{"role": "assistant", "content": "Dig."}]])
def test_a_completion_is_a_continuation(completion: Any) -> None:
    assert read_entry({"prompt": TWO[0], "completion": completion}, "record 1") == Entry(TWO[0], "Dig.")
