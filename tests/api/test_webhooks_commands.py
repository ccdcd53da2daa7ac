"""``spinal webhooks`` against a service behind a socket."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.settings import Settings
from spinal.errors import ExitCode
from tests.cli.test_cli import spinal
from tests.support.hooks import for_webhooks
from tests.support.served import served

URL = "https://hooks.example.org/spinal"
Call = Callable[..., Any]


@pytest.fixture
def call(api_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    with served(for_webhooks(api_settings, monkeypatch)) as url:
        yield lambda *arguments: spinal("webhooks", *arguments, SPINAL_SERVER=url)


def test_a_webhook_is_made_listed_rotated_tested_and_deleted(call: Call) -> None:
    made = call("create", URL, "--event", "audit.*", "--verdict", "fail", "--label", "of=us", "--description", "chat")
    assert made.returncode == 0, made.stderr
    first, secret = made.stdout.splitlines()
    assert secret.startswith("secret: whsec_")
    webhook = first.split(":")[0]
    [listed] = json.loads(call("list", "--json").stdout)
    assert (listed["id"], listed["events"], listed["description"]) == (webhook, ["audit.*"], "chat")
    assert listed["filters"] == {"verdicts": ["fail"], "labels": {"of": "us"}, "models": []}
    assert "enabled" in call("list").stdout
    rotated = call("rotate", webhook, "--overlap", "60")
    assert secret not in rotated.stdout
    assert rotated.stdout.splitlines()[1].startswith("secret: whsec_")
    told = json.loads(call("test", webhook, "--json").stdout)
    assert told["id"] in call("deliveries", webhook).stdout
    assert json.loads(call("resend", webhook, told["id"], "--json").stdout)["id"] == told["id"]
    assert "disabled: somebody disabled it" in call("disable", webhook).stdout
    assert call("test", webhook).returncode == ExitCode.NOT_EVALUATED
    assert "CANCELLED" in call("deliveries", webhook).stdout
    assert "enabled" in call("enable", webhook).stdout
    assert call("delete", webhook).returncode == 0
    assert json.loads(call("list", "--json").stdout) == []


def test_a_mistake_has_a_cause_and_a_next_step(call: Call) -> None:
    for arguments in (
        ("create", "http://10.0.0.1/x"),
        ("create", URL, "--label", "of"),
        ("rotate", "01a2296c-2517-7137-8181-d03ed0fafa6f"),
        ("delete", "01a2296c-2517-7137-8181-d03ed0fafa6f"),
    ):
        done = call(*arguments)
        assert done.returncode not in (ExitCode.PASS, ExitCode.FAILED), arguments
        cause, following = done.stderr.splitlines()
        assert (cause[:7], following[:6]) == ("error: ", "next: ")
