"""A policy of one's own on the server: one file turns the bundled pair from pass into exit 1."""

import json
from pathlib import Path

from devstack.stack import Stack, throwaway_folder
from spinal.client import Client
from tests.cli.test_cli import spinal
from tests.conftest import EXAMPLES
from tests.unit.policy.test_page import example

PAIR = ("local:dpo-short", "--reference", "local:sft", "--prompt-set", "hh-harmless-64", "--wait", "5m", "--json")
PROFILE = ("--profile", json.dumps({"stitch_prompts": 16}))


def test_one_file_turns_a_pass_into_exit_1_with_rule_value_and_limit(tmp_path: Path) -> None:
    """The policy of ``docs/policies.md``; nothing is measured for it."""
    strict = tmp_path / "release.yaml"
    strict.write_text(example())
    with throwaway_folder() as folder:
        stack = Stack(folder, durable=False, model_roots=(EXAMPLES / "checkpoints",), concurrency=1)
        stack.start()
        try:
            server = {"SPINAL_SERVER": stack.url, "SPINAL_API_KEY": stack.api_key}
            plain = spinal("audit", *PAIR, *PROFILE, **server)
            assert plain.returncode == 0, plain.stderr
            report = tmp_path / "report.md"
            judged = spinal("audit", *PAIR, *PROFILE, "--policy", str(strict), "-o", str(report), **server)
            assert judged.returncode == 1, judged.stderr
            # Again: the file is stored already.
            named = spinal("audit", *PAIR, *PROFILE, "--policy", "acme-release/1", **server)
            assert named.returncode == 1, named.stderr
            before, after = json.loads(plain.stdout), json.loads(judged.stdout)
            with Client(stack.url, stack.api_key) as client:
                verdict = client.scores(after["id"])["verdict"]
                assert (
                    client.policy("acme-release/1")["digest"] == verdict["policy_digest"] == after["policy"]["digest"]
                )
        finally:
            stack.stop()
    assert (before["verdict"], after["verdict"], after["decided_by"]) == ("pass", "fail", "stays-near")
    assert after["comparison"] == before["comparison"]
    assert {run["attempt"] for run in after["progress"]["runs"].values()} == {1}
    [rule] = [rule for rule in verdict["rules"] if rule["rule"] == "stays-near"]
    assert rule["ci"][0] > rule["limit"] == 0.03
    assert f"{rule['value']:.3g} nats" in after["verdict_reasons"][0]
    assert after["verdict_reasons"][0].endswith("limit 0.03")
    assert f"{rule['value']:.3g} nats" in report.read_text().replace("\\", "")
