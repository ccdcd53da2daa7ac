"""``spinal models`` against a service behind a socket."""

import json
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from service.settings import Settings
from spinal.cli.main import main
from spinal.errors import ExitCode
from tests.support.served import served

Call = Callable[..., Any]


@pytest.fixture
def call(api_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """The command in this process: there are many, and each alone takes a second to start."""

    def run(*arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["spinal", "models", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code, stdout=shown.out, stderr=shown.err)

    with served(api_settings) as url:
        monkeypatch.setenv("SPINAL_SERVER", url)
        yield run


def said(done: Any) -> str:
    assert done.returncode == 0, done.stderr
    return str(done.stdout.strip())


def test_a_model_is_named_versioned_and_taken_back(call: Call) -> None:
    assert said(call("register", "acme/chat:3", "local:sft", "--description", "ours")) == "acme/chat:3 is local:sft"
    assert said(call("register", "acme/chat:4", "local:dpo-short")) == "acme/chat:4 is local:dpo-short"
    assert said(call("register", "acme/chat:4", "local:dpo-short")) == "acme/chat:4 is local:dpo-short"
    assert said(call("register", "plain", "local:sft")) == "plain:1 is local:sft"
    assert said(call("alias", "acme/chat@champion", "3")) == "acme/chat@champion is version 3, local:sft"

    [found, plain] = json.loads(said(call("list", "--json")))
    assert (found["name"], found["version"], found["aliases"], found["description"]) == (
        "acme/chat", "4", {"champion": "3"}, "ours",
    )  # fmt: skip
    (row,) = (line for line in said(call("list")).splitlines() if "acme/chat" in line)
    assert row.split() == ["acme/chat", "4", "local:dpo-short", "champion", "=", "3", "ours"]
    assert [each["version"] for each in json.loads(said(call("versions", "acme/chat", "--json")))] == ["4", "3"]
    rows = [line.split()[:3] for line in said(call("versions", "acme/chat")).splitlines()[2:]]
    assert rows == [["4", "local:dpo-short", "-"], ["3", "local:sft", "champion"]]
    for named, first in (
        ("acme/chat", "acme/chat:4 is local:dpo-short"),
        (found["id"], "acme/chat:4 is local:dpo-short"),
        ("acme/chat:3", "acme/chat:3 is local:sft"),
        ("acme/chat@champion", "acme/chat:3 is local:sft"),
    ):
        shown = said(call("show", named)).splitlines()
        assert shown[0] == first
        assert "champion" in shown[1]

    assert said(call("remove", "acme/chat@champion")) == "acme/chat@champion is gone"
    assert said(call("remove", "acme/chat:3")) == "acme/chat:3 is gone"
    assert said(call("remove", "acme/chat")) == "acme/chat is gone"
    assert json.loads(said(call("list", "--json"))) == [plain]


def test_a_mistake_has_a_cause_and_a_next_step_and_changes_nothing(call: Call) -> None:
    said(call("register", "acme/chat", "local:sft"))
    said(call("alias", "acme/chat@champion", "1"))
    before = call("list", "--json").stdout
    for usage, arguments in (
        (True, ("register", "acme/chat@champion", "local:sft")),
        (True, ("register", "acme/chat:", "local:sft")),
        (True, ("register", ":3", "local:sft")),
        (True, ("alias", "acme/chat", "1")),
        (True, ("alias", "acme/chat:1@x", "1")),
        (True, ("show", "acme/chat@nobody")),
        (True, ("remove", "@champion")),
        (True, ("remove", "a@b:c")),
        (False, ("register", "acme/chat", "local:dpo-short")),
        (False, ("register", "acme/chat:1", "local:dpo-short")),
        (False, ("alias", "acme/chat@champion", "9")),
        (False, ("show", "acme/nowhere")),
        (False, ("show", "acme/chat:9")),
        (False, ("versions", "acme/nowhere")),
        (False, ("remove", "acme/chat:1")),
        (False, ("remove", "acme/chat@nobody")),
        (False, ("remove", "acme/nowhere")),
    ):
        done = call(*arguments)
        assert (done.returncode == ExitCode.USAGE) == usage, (arguments, done.stderr)
        assert done.returncode not in (ExitCode.PASS, ExitCode.FAILED), arguments
        cause, following = done.stderr.splitlines()
        assert (cause[:7], following[:6]) == ("error: ", "next: "), arguments
        assert "/v1/" not in following
    assert call("list", "--json").stdout == before
