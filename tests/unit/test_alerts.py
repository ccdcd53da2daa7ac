"""The alert rules that ship name metrics that are told, and hold their own tests where Prometheus's tool is there."""

import re
import shutil
import subprocess

import yaml

from tests.conftest import Without
from tests.support.places import ROOT

RULES = ROOT / "docs" / "prometheus"


def rules() -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def test_rules_name_metrics_that_a_dispatcher_tells() -> None:
    told = set(re.findall(r'"(spinal_[a-z_]+)"', (ROOT / "worker" / "metrics.py").read_text()))
    told |= {f"{name}_total" for name in told}
    named = {name for rule in rules() for name in re.findall(r"\bspinal_[a-z_]+", rule["expr"])}
    assert named
    assert named <= told


def test_there_is_an_alert_for_each_way_in_which_nothing_goes_on() -> None:
    assert {"SpinalNoDispatcher", "SpinalNoWorker", "SpinalOldestDueRun", "SpinalInvariantViolated"} <= {
        rule["alert"] for rule in rules()
    }


def test_rules_fire_when_they_should(without: Without) -> None:
    if shutil.which("promtool") is None:
        without("promtool", "apt-get install prometheus")
    subprocess.run(["promtool", "test", "rules", "alerts_test.yml"], cwd=RULES, check=True)
