"""``spinal prompts`` and ``spinal audit --prompts`` against a service behind a socket."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from spinal.errors import ExitCode
from spinal.prompts.load import load_prompts
from tests.cli.test_cli import spinal
from tests.support.served import at_work, served

PAIR = ("audit", "local:dpo-short", "--reference", "local:sft", "--wait", "2m", "--json")
Call = Callable[..., Any]


@pytest.fixture
def call(api_settings: Settings, drain: Callable[[], int]) -> Iterator[Call]:
    """``call("prompts", "list")``: the finished command."""
    with served(api_settings) as url:
        yield lambda *arguments: spinal(*arguments, SPINAL_SERVER=url)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "our prompts (v2).jsonl.gz"
    lines = [{"prompt": f"question {n} about trees", "category": "trees" if n % 2 else "soil"} for n in range(24)]
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    return path


def test_a_set_is_pushed_listed_and_shown(call: Call, file: Path) -> None:
    digest = load_prompts(str(file)).digest
    first, second = (call("prompts", "push", str(file), "--name", "mine") for _ in range(2))
    assert (first.returncode, first.stdout) == (0, f"mine: 24 prompts, digest {digest}\n"), first.stderr
    assert second.stdout == first.stdout
    listed = json.loads(call("prompts", "list", "--json").stdout)
    assert [one["name"] for one in listed if not one["builtin"]] == ["mine"]
    rows = [line.split() for line in call("prompts", "list").stdout.splitlines()]
    assert ["mine", "24", "stored", digest] in rows
    for named in ("mine", digest):
        shown = call("prompts", "show", named, "--first", "1").stdout.splitlines()
        assert shown == [f"mine: 24 prompts, stored, digest {digest}", "  12 of soil", "  12 of trees",
                         "  - question 0 about trees"]  # fmt: skip
    assert len(json.loads(call("prompts", "show", "mine", "--json", "--first", "24").stdout)["prompts"]) == 24


def test_an_audit_takes_a_file_and_later_its_name(call: Call, file: Path, drain: Callable[[], int]) -> None:
    digest = load_prompts(str(file)).digest
    with at_work(drain):
        by_file = call(*PAIR, "--prompts", str(file))
        by_name = call(*PAIR, "--prompt-set", "our-prompts-v2")
        built_in = call(*PAIR, "--prompts", "hh-harmless-64")
        # Called like a built-in set: it needs no name, and is no other set than it is.
        alike = file.rename(file.with_name("hh-harmless-64.jsonl.gz"))
        by_digest = call(*PAIR, "--prompts", str(alike))
    for done in (by_file, by_name, built_in, by_digest):
        assert json.loads(done.stdout)["state"] == "SUCCEEDED", done.stderr
    read = [json.loads(done.stdout)["prompt_set"] for done in (by_file, by_name, built_in, by_digest)]
    assert [read[number]["digest"] for number in (0, 1, 3)] == [digest] * 3
    assert read[2]["name"] == "hh-harmless-64"
    assert "stored 24 prompts as our-prompts-v2" in by_file.stderr
    assert "stored" not in built_in.stderr
    refused = call("prompts", "push", str(alike))
    assert (refused.returncode, "built-in" in refused.stderr) == (ExitCode.USAGE, True)


@pytest.mark.parametrize(
    ("content", "arguments", "code"),
    [
        ("a\n", ("--name", "hh-harmless-64"), "prompt_set_invalid"),
        ("a\n", ("--name", "two words"), "prompt_set_invalid"),
        ("\n".join(map(str, range(10_001))), (), "prompt_set_invalid"),
        ("x" * 200_001, (), "prompt_set_invalid"),
        ("a\0b", (), "prompt_set_invalid"),
        ("", (), "prompt_set_empty"),
    ],
    ids=["built in", "no name", "many", "long", "NUL", "empty"],
)  # fmt: skip
def test_what_a_service_would_refuse_is_refused_without_one(
    tmp_path: Path, content: str, arguments: tuple[str, ...], code: str
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(content)
    nowhere = ("--server", "http://127.0.0.1:1", "--json")
    pushed = spinal("prompts", "push", str(file), *arguments, *nowhere)
    assert (pushed.returncode, json.loads(pushed.stderr)["code"]) == (ExitCode.USAGE, code)
    if not arguments:
        audited = spinal("audit", "local:x", "--prompts", str(file), *nowhere)
        assert (audited.returncode, json.loads(audited.stderr)["code"]) == (ExitCode.USAGE, code)


def test_what_is_not_there_is_a_mistake_of_who_asks(call: Call, file: Path) -> None:
    for arguments, code in (
        (("prompts", "show", "nobodys"), "stored_prompt_set_not_found"),
        (("prompts", "push", "nowhere.jsonl"), "prompt_file_not_found"),
        (("audit", "local:sft", "--prompts", "nowhere.jsonl"), "prompt_file_not_found"),
        (("audit", "local:sft", "--prompt-set", "nobodys"), "prompt_set_not_found"),
        (("audit", "local:sft", "--prompt-set", "mine", "--prompts", str(file)), "usage"),
    ):
        done = call(*arguments, "--json")
        assert (done.returncode, json.loads(done.stderr)["code"]) == (ExitCode.USAGE, code), done.stderr
        assert done.stdout == ""
