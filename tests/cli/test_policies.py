"""Policies on the command line: a file turns a pass into exit 1, and what cannot be one is refused first."""

import json
from pathlib import Path

import pytest

from spinal.documents.comparison import Comparison, Verdict
from tests.cli.test_cli import DPO, SFT, spinal
from tests.support.fabricated import changed_pair
from tests.unit.policy.test_page import example

STORED = "comparison.json"
WARNS = """
name: acme-watch/1
rules:
  - {name: moved, value: damage.gap, bad: above, limit: 0.0, severity: warn, decides: value}
"""
STEP_BACK = """
name: acme-steps/1
rules:
  - {name: step, value: former.damage.nll_change, bad: above, limit: 0.1, severity: fail}
"""


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A comparison in a file, quiet under the default."""
    path = tmp_path / STORED
    path.write_text(changed_pair().compare().model_dump_json(by_alias=True))
    return path


def policy(folder: Path, text: str) -> str:
    path = folder / "policy.yaml"
    path.write_text(text)
    return str(path)


def verdict(printed: str) -> Verdict:
    return Comparison.model_validate_json(printed).verdict


@pytest.mark.model
def test_one_file_turns_a_pass_into_exit_1_with_rule_value_and_limit(tmp_path: Path) -> None:
    """The policy of ``docs/policies.md``, on the bundled pair."""
    out, strict = tmp_path / STORED, policy(tmp_path, example())
    asked = ("compare", SFT, DPO, "--prompts", "hh-harmless-64", "--stitch-prompts", "16")
    done = spinal(*asked, "--policy", strict, "--json", "-o", str(out), "-o", str(tmp_path / "report.md"))
    assert done.returncode == 1, done.stderr
    found = verdict(done.stdout)
    assert (found.outcome, found.policy, found.decided_by) == ("fail", "acme-release/1", "stays-near")
    (rule,) = [rule for rule in found.rules if rule.rule == "stays-near"]
    assert rule.value is not None
    assert rule.ci is not None
    assert rule.ci[0] > 0.03 == rule.limit
    assert found.reasons[0].startswith(f"KL(reference || candidate) (accounts.kl.total): {rule.value:.3g} nats")
    assert found.reasons[0].endswith("limit 0.03")
    report = (tmp_path / "report.md").read_text().replace("\\", "")
    assert f"{rule.value:.3g} nats" in report
    assert "limit 0.03" in report
    # What was measured is judged under another policy without measuring, and under the same one again.
    back = spinal("report", str(out), "--policy", "spinal-default/2", "--json")
    assert (back.returncode, verdict(back.stdout).outcome) == (0, "pass")
    again = spinal("report", str(out), "--policy", strict, "--json")
    assert (again.returncode, verdict(again.stdout)) == (1, found)


@pytest.mark.parametrize(("fail_on", "code"), [("fail", 0), ("warn", 1)])
def test_a_warning_fails_where_that_is_asked_for(stored: Path, tmp_path: Path, fail_on: str, code: int) -> None:
    done = spinal("report", str(stored), "--policy", policy(tmp_path, WARNS), "--fail-on", fail_on, "--json")
    assert (done.returncode, verdict(done.stdout).outcome) == (code, "warn"), done.stderr


def test_what_is_open_exits_with_5(stored: Path, tmp_path: Path) -> None:
    done = spinal("report", str(stored), "--policy", policy(tmp_path, STEP_BACK), "--json")
    assert (done.returncode, verdict(done.stdout).outcome) == (5, "inconclusive"), done.stderr
    assert "no former comparison was given" in verdict(done.stdout).reasons[0]


def test_a_former_comparison_is_read(stored: Path, tmp_path: Path) -> None:
    former = tmp_path / "former.json"
    former.write_bytes(stored.read_bytes())
    rules = policy(tmp_path, STEP_BACK)
    done = spinal("report", str(stored), "--policy", rules, "--former", str(former), "--json")
    assert done.returncode == 0, done.stderr
    found = verdict(done.stdout)
    assert (found.outcome, found.rules[0].value) == ("pass", 0.0)
    assert found.former == Comparison.model_validate_json(stored.read_text()).digest


def test_a_stored_comparison_keeps_its_verdict_unless_it_is_judged_again(stored: Path) -> None:
    done = spinal("report", str(stored), "--json")
    assert done.returncode == 0
    assert verdict(done.stdout) == Comparison.model_validate_json(stored.read_text()).verdict


@pytest.fixture
def failed(stored: Path, tmp_path: Path) -> Path:
    """A comparison that fails under a policy of its own, and passes the default."""
    path = tmp_path / "failed.json"
    rules = policy(tmp_path, WARNS.replace("severity: warn", "severity: fail"))
    assert spinal("report", str(stored), "--policy", rules, "-o", str(path)).returncode == 1
    return path


@pytest.mark.parametrize("fail_on", ["fail", "warn"])
def test_a_stored_verdict_exits_as_it_says_where_that_is_asked_for(failed: Path, fail_on: str) -> None:
    done = spinal("report", str(failed), "--fail-on", fail_on, "--json")
    assert done.returncode == 1, done.stderr
    assert verdict(done.stdout) == Comparison.model_validate_json(failed.read_text()).verdict


def test_a_former_comparison_brings_no_other_policy_with_it(failed: Path, stored: Path) -> None:
    done = spinal("report", str(failed), "--former", str(stored))
    assert done.returncode == 2
    assert "--policy" in done.stderr


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no such policy": (("--policy", "acme/9"), "no policy acme/9"),
    "a policy that is a comparison": (("--policy", STORED), "schema: Input should be 'spinal.policy/1'"),
    "an unknown value": (("--policy", "unknown.yaml"), "rule 'moved': value: there is no value 'damage.gip'"),
    "a file that is no YAML": (("--policy", "broken.yaml"), "line 2"),
    "neither fail nor warn": (("--fail-on", "never"), "--fail-on 'never' is neither fail nor warn"),
    "no such former": (("--former", "none.json"), "No such file"),
    "a former that is no comparison": (("--former", "trace.json"), "a spinal.trace/1 is no comparison"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("command", [("report", STORED), ("compare", "nowhere", "nowhere")])
def test_a_gate_that_means_nothing_is_refused_before_any_work(
    stored: Path, name: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stored.parent)
    Path("unknown.yaml").write_text(WARNS.replace("gap", "gip"))
    Path("broken.yaml").write_text("name: a\n  rules: [\n")
    Path("trace.json").write_text(changed_pair().reference.model_dump_json(by_alias=True))
    options, said = REFUSED[name]
    done = spinal(*command, *options, "-o", "out.html")
    assert done.returncode == 2
    first, *rest = done.stderr.splitlines()
    assert said in first
    assert [line.partition(":")[0] for line in rest] == ["next"]
    assert not Path("out.html").exists()
    told = json.loads(spinal(*command, *options, "-o", "out.html", "--json").stderr)
    assert said in told["detail"]


def test_what_holds_no_verdict_is_not_judged(stored: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    trace.write_text(changed_pair().reference.model_dump_json(by_alias=True))
    done = spinal("report", str(trace), "--policy", "spinal-default/2")
    assert done.returncode == 2
    assert "is not judged" in done.stderr
    rules = tmp_path / "policy.json"
    rules.write_text(json.dumps({"schema": "spinal.policy/1", "name": "a/1", "rules": [
        {"name": "moved", "value": "damage.gap", "bad": "above", "limit": 1, "severity": "warn"}]}))  # fmt: skip
    done = spinal("report", str(rules))
    assert done.returncode == 2
    assert "has no report" in done.stderr
