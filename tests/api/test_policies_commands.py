"""``spinal policies`` against a service behind a socket."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from spinal.errors import ExitCode
from tests.cli.test_cli import spinal
from tests.support.served import served

POLICY = """\
name: acme-release/1
description: What our releases are held to, „streng“
rules:
  - {name: nll, value: damage.nll_change, bad: above, limit: 0.05, severity: fail}
  - {name: gap, value: damage.gap, bad: above, limit: 0.5, severity: warn}
"""
Call = Callable[..., Any]


@pytest.fixture
def call(api_settings: Settings) -> Iterator[Call]:
    with served(api_settings) as url:
        yield lambda *arguments: spinal(*arguments, SPINAL_SERVER=url)


def test_a_policy_is_pushed_listed_and_shown_as_what_can_be_pushed_again(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "release.yaml"
    file.write_text(POLICY, encoding="utf-8")
    first = call("policies", "push", str(file))
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("acme-release/1: 2 rules, digest ")
    listed = json.loads(call("policies", "list", "--json").stdout)
    assert [(one["name"], one["builtin"]) for one in listed] == [("spinal-default/2", True), ("acme-release/1", False)]
    (row,) = (line for line in call("policies", "list").stdout.splitlines() if "acme-release/1" in line)
    assert row.split()[1:3] == ["2", "stored"]
    digest = json.loads(call("policies", "show", "acme-release/1", "--json").stdout)["digest"]
    for named in ("acme-release/1", digest):
        file.write_text(call("policies", "show", named).stdout)
        again = call("policies", "push", str(file))
        assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr


def test_a_mistake_has_a_cause_and_a_next_step_and_stores_nothing(call: Call, tmp_path: Path) -> None:
    file, other = tmp_path / "release.yaml", tmp_path / "other.yaml"
    other.write_text(POLICY.replace("damage.gap", "damage.nothing"), encoding="utf-8")
    for arguments in (
        ("push", str(tmp_path / "nowhere.yaml")),
        ("push", "spinal-default/2"),
        ("push", str(other)),
        ("show", "acme-release/1"),
    ):
        done = call("policies", *arguments)
        assert done.returncode not in (ExitCode.PASS, ExitCode.FAILED), arguments
        cause, following = done.stderr.splitlines()
        assert (cause[:7], following[:6]) == ("error: ", "next: ")
    assert len(json.loads(call("policies", "list", "--json").stdout)) == 1
    file.write_text(POLICY, encoding="utf-8")
    assert call("policies", "push", str(file)).returncode == 0
    file.write_text(POLICY.replace("0.05", "0.5"), encoding="utf-8")
    taken = call("policies", "push", str(file), "--json")
    assert json.loads(taken.stderr)["code"] == "policy_name_taken"
