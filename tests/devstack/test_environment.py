"""Which of the caller's variables reach the processes of the embedded stack."""

import os
from pathlib import Path

import pytest

from devstack.commands import children_for, commands
from devstack.environment import (
    OF_OTHER_SERVERS,
    checked_settings,
    handed_on,
    setting_names,
    settings_in,
    warnings_about,
    without_settings,
)
from devstack.processes import StackError
from devstack.stack import Stack, throwaway_folder
from service.platform.addresses import check_addresses
from tests.support.places import ROOT

OUTSIDE = {
    "PATH": "/bin",
    "SPINAL_METRICS_PORT": "9464",
    "spinal_stream_weights": "true",
    "SPINAL_SERVER": "http://127.0.0.1:1",
    "SPINAL_API_KEY": "spk_of_a_client",
}


def test_settings_are_told_from_everything_else() -> None:
    assert without_settings(OUTSIDE) == {"PATH": "/bin"}
    assert settings_in(OUTSIDE) == {"SPINAL_METRICS_PORT": "9464", "SPINAL_STREAM_WEIGHTS": "true"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SPINAL_METRICS_PORT", None),
        ("SPINAL_METRIC_PORT", "SPINAL_METRIC_PORT is not a setting; did you mean SPINAL_METRICS_PORT?"),
        ("SPINAL_QQQQ", "SPINAL_QQQQ is not a setting; service/settings.py lists them all"),
        ("SPINAL_BROKER_URL", "SPINAL_BROKER_URL is set by the embedded stack itself, yours is not used"),
        (
            "SPINAL_ARTIFACT_URL",
            "SPINAL_ARTIFACT_URL is set by the embedded stack itself, yours is not used; use --state",
        ),
    ],
)
def test_what_will_not_do_what_was_meant_is_said(name: str, expected: str | None) -> None:
    decided = {"SPINAL_BROKER_URL": "redis://a", "SPINAL_ARTIFACT_URL": "file://a"}
    assert warnings_about({name: "1"}, decided) == ([] if expected is None else [expected])


def test_a_decision_that_agrees_needs_no_warning() -> None:
    assert warnings_about({"SPINAL_BROKER_URL": "redis://a"}, {"SPINAL_BROKER_URL": "redis://a"}) == []


def test_settings_of_every_type_are_read_as_the_processes_read_them() -> None:
    found = checked_settings({"SPINAL_LEASE_S": "7.5", "SPINAL_STREAM_WEIGHTS": "true", "SPINAL_GPUS": "0,1"})
    assert (found.lease_s, found.stream_weights, found.gpus) == (7.5, True, ("0", "1"))


def test_a_value_that_is_not_valid_is_refused_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINAL_METRICS_PORT", "many")
    with throwaway_folder() as folder:
        with pytest.raises(StackError, match="SPINAL_METRICS_PORT: Input should be a valid integer"):
            Stack(folder, durable=False, model_roots=()).start()
        assert list(folder.iterdir()) == []


def test_fetched_models_are_kept_in_the_folder_of_the_state(tmp_path: Path) -> None:
    assert handed_on({}, {}, tmp_path)["SPINAL_MODEL_STORE"] == str(tmp_path / "models")


@pytest.mark.parametrize("name", ["SPINAL_MODEL_STORE", "SPINAL_MODEL_SOURCES_FILE", "SPINAL_GPU_LOCK_DIR"])
def test_a_path_is_the_one_that_the_caller_sees(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, meant in (("here/x", str(tmp_path / "here" / "x")), ("/there/x", "/there/x")):
        assert handed_on({name: given}, {}, tmp_path / "state")[name] == meant


def test_settings_of_sources_are_handed_on_as_they_are() -> None:
    given = {"SPINAL_MODEL_SOURCES": "hf: {allow: [a/*]}", "SPINAL_MODEL_STORE_BYTES": "9", "SPINAL_KEY_PEPPER": "a"}
    found = handed_on(given, {"SPINAL_KEY_PEPPER": "b"}, Path("/state"))
    assert found == {
        **given, "SPINAL_KEY_PEPPER": "b", "SPINAL_LOG_FORMAT": "console", "SPINAL_MODEL_STORE": "/state/models",
    }  # fmt: skip


def test_settings_of_sources_that_are_not_valid_are_refused_by_name_and_without_a_value() -> None:
    with pytest.raises(StackError, match=r"settings of model sources: hf\.allow") as caught:
        checked_settings({"SPINAL_MODEL_SOURCES": "hf: {token: hf_secret}"})
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "queue", "children"),
    [
        ({}, "cpu", "2"),
        ({"SPINAL_TRACE_QUEUE": "gpu"}, "gpu", "2"),
        ({"SPINAL_TRACE_QUEUE": "gpu", "SPINAL_DEVICE": "cuda", "SPINAL_GPUS": "0,1,2"}, "gpu", "3"),
        ({"SPINAL_DEVICE": "cuda:1"}, "cpu", "2"),
    ],
)
def test_the_worker_listens_where_work_is_sent_with_a_child_for_each_gpu(
    variables: dict[str, str], queue: str, children: str
) -> None:
    settings = checked_settings(variables)
    found = children_for(settings, os.environ | {"PYTHONPATH": str(ROOT), "PATH": ""} | variables)
    command = commands(settings, port=8000, children=found)["worker"]
    assert command[command.index("--queues") + 1] == f"{queue},deliveries"
    assert command[command.index("--concurrency") + 1] == children


def test_a_stack_for_gpus_is_refused_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINAL_DEVICE", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with throwaway_folder() as folder, pytest.raises(StackError, match="no GPU was found"):
        Stack(folder, durable=False, model_roots=()).start()


def test_what_a_caller_has_set_for_servers_elsewhere_stops_no_stack() -> None:
    given = dict.fromkeys(OF_OTHER_SERVERS, "/somewhere/else") | {"SPINAL_LEASE_S": "3"}
    decided = {"SPINAL_DATABASE_URL": "postgresql://u:p@h/d", "SPINAL_KEY_PEPPER": "p", **OF_OTHER_SERVERS}
    settings = checked_settings(handed_on(given, decided, Path("state")))
    check_addresses(settings)
    assert settings.lease_s == 3.0
    named = {warning.split()[0] for warning in warnings_about(given, decided)}
    assert named == set(OF_OTHER_SERVERS)
    assert named <= setting_names()
