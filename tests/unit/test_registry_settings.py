"""What an operator writes of registries: wrong settings are one line with the place of what is wrong, and no value."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.integrations.adapters import adapter_of
from service.integrations.adapters.base import Sign
from service.registries import KINDS, Registries, Rule, load_registries
from service.settings import Settings
from spinal.checkpoints.sources.reach import load_source_settings
from spinal.errors import UsageError
from tests.support.places import ROOT
from tests.unit.test_source_settings import API, started

RULE = {"name": "r", "model": "chat", "reference": "@champion"}
OWN = {"kind": "mlflow", "tenant": "t", "secret_files": ["/secret"], "rules": [RULE]}
CI = OWN | {"kind": "generic", "rules": [RULE | {"candidate": "local:{model}/{version}", "reference": "local:sft"}]}
HUB = OWN | {"kind": "huggingface"}


def written(**changed: Any) -> str:
    return json.dumps({"production": OWN | changed})


def ruled(**changed: Any) -> str:
    return written(rules=[RULE | changed])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SECRET", "not a mapping of registries by name"),
        ("{", "neither JSON nor YAML"),
        (json.dumps({"No Name": OWN}), "No Name is no name"),
        (written(kind="SECRET"), "production.kind: a kind is one of mlflow, huggingface, generic"),
        (written(token="SECRET"), "production.token: "),
        (written(secret_files=[]), "production.secret_files: "),
        (written(secret_files=["/SECRET"] * 5), "production.secret_files: "),
        (written(rules=[]), "production.rules: "),
        (written(rules=[RULE, RULE]), "production: two rules have the same name"),
        (written(poll_every_s=0), "production.poll_every_s: "),
        (ruled(name="Not A Name"), "production.rules.0.name: "),
        (ruled(reference=""), "production.rules.0.reference: "),
        (ruled(policy="SECRET"), "production.rules.0.policy: "),
        (ruled(profile={"SECRET": 1}), "production.rules.0.profile."),
        (ruled(priority=11), "production.rules.0.priority: "),
        (ruled(labels={"": "x"}), "production.rules.0.labels."),
        (ruled(aliases=["a"], tags={"a": "b"}), "production.rules.0: give one of aliases, tags, stage"),
        (ruled(aliases=["champion"]), "production.rules.0: the reference is an alias by which the candidate is chosen"),
        (ruled(candidate="local:x"), "production: rules.r: kind mlflow says itself what the candidate is"),
        (json.dumps({"ci": CI | {"rules": [RULE]}}), "ci: rules.r: kind generic needs a candidate"),
        (json.dumps({"ci": CI | {"write_back": True}}), "ci: write_back: a registry of kind generic is not written to"),
        (written(report_link="SECRET"), "production.report_link: Input should be 'page' or 'signed'"),
        (
            json.dumps({"ci": CI | {"report_link": "page"}}),
            "ci: report_link: a registry of kind generic is not written",
        ),
        (json.dumps({"ci": CI | {"backfill": True}}), "ci: poll_every_s, backfill: a registry of kind generic"),
        (json.dumps({"hub": HUB | {"write_back": True}}), "hub: write_back: a registry of kind huggingface"),
        (json.dumps({"hub": HUB | {"rules": [RULE | {"reference": "previous"}]}}), "hub: rules.r.reference: versions"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_registries(text)
    assert caught.value.detail.startswith("settings of registries: ")
    assert says in caught.value.detail
    assert "SECRET" not in caught.value.detail.replace("profile.SECRET", "")
    assert "\n" not in caught.value.detail


def test_a_tenant_needs_the_source_by_which_versions_are_read() -> None:
    sources = load_source_settings(json.dumps({"tenants": {"other": {"mlflow": {"url": "http://m", "allow": ["*"]}}}}))
    with pytest.raises(ValidationError, match="production: its tenant has no model source 'mlflow'"):
        Settings(model_sources=sources, registries=load_registries(written()))
    assert Settings(model_sources=sources, registries=load_registries(written(tenant="other")))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (FileNotFoundError)"),
        ("", "is empty"),
        ("two\nlines\n", "no single line"),
        ("a secret without its prefix\n", "is whsec_ and base64"),
        ("whsec_short\n", "is whsec_ and base64"),
    ],
)
def test_a_secret_that_is_none_is_told_at_the_start(tmp_path: Path, content: str | None, says: str) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    found = load_registries(json.dumps({"ci": CI | {"secret_files": [str(file)]}}))
    with pytest.raises(UsageError, match=r"ci.secret_files: the secret file secret\b") as caught:
        found.require_usable()
    assert says in caught.value.detail


def test_two_registries_of_a_kind_do_not_share_a_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the same\n")
    own = {"secret_files": [str(tmp_path / "secret")]}
    both = load_registries(json.dumps({"a": OWN | own, "b": OWN | own, "hub": HUB | own}))
    with pytest.raises(UsageError, match=r"b.secret_files: registry a has the same secret"):
        both.require_usable()


def test_a_secret_is_the_same_however_its_base64_ends(tmp_path: Path) -> None:
    for name, padding in (("a", ""), ("b", "==")):
        (tmp_path / name).write_text(f"whsec_{'A' * 30}{padding}\n")
    both = load_registries(json.dumps({name: CI | {"secret_files": [str(tmp_path / name)]} for name in ("a", "b")}))
    with pytest.raises(UsageError, match=r"b.secret_files: registry a has the same secret"):
        both.require_usable()


def test_wrong_settings_end_a_process_at_its_start_with_one_line() -> None:
    done = started(API, SPINAL_REGISTRIES=written(kind="SECRET"))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: settings of registries: production.kind: ")
    assert "SECRET" not in line


def test_the_example_is_one() -> None:
    text = (ROOT / "examples" / "registries" / "registries.yaml").read_text()
    assert {each.kind for each in load_registries(text).by_name.values()} == set(KINDS)


def test_the_example_of_the_documentation_is_one() -> None:
    page = (ROOT / "docs" / "registries.md").read_text()
    [text] = [block.partition("```")[0] for block in page.split("```yaml\n")[1:]]
    assert list(load_registries(text).by_name) == ["production"]


def test_every_kind_has_an_adapter_and_what_it_is_polled_with() -> None:
    for name, kind in KINDS.items():
        assert (adapter_of(name).look is not None) is kind.polled, name


def test_what_is_put_into_a_reference_is_no_place_again() -> None:
    ci = load_registries(json.dumps({"ci": CI})).by_name["ci"]
    assert ci.candidate_of(ci.rules[0], "{version}", "{model}") == "local:{version}/{model}"


@pytest.mark.parametrize(
    ("reference", "means"),
    [
        ("@champion", "mlflow:chat@champion"),
        ("/1", "mlflow:chat/1"),
        ("previous", "mlflow:chat/6"),
        ("hf:org/base@main", "hf:org/base@main"),
        ("a-registered-name", "a-registered-name"),
    ],
)
def test_what_a_reference_means(reference: str, means: str) -> None:
    own = load_registries(ruled(reference=reference)).by_name["production"]
    assert own.reference_of(own.rules[0], "chat", "7") == means


SIGNS = {
    "created": Sign("chat", "1", "created"),
    "alias": Sign("chat", "1", "alias", "candidate"),
    "other alias": Sign("chat", "1", "alias", "other"),
    "tag": Sign("chat", "1", "tag", "ready", "yes"),
    "other tag": Sign("chat", "1", "tag", "ready", "no"),
    "stage": Sign("chat", "1", "stage", "Staging"),
    "other model": Sign("chats", "1", "created"),
}


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ({}, {"created"}),
        ({"aliases": ["candidate"]}, {"alias"}),
        ({"tags": {"ready": "yes"}}, {"tag"}),
        ({"stage": "Staging"}, {"stage"}),
        ({"model": "ch*"}, {"created", "other model"}),
        ({"model": "CHAT"}, set()),
    ],
)
def test_by_what_a_rule_chooses(rule: dict[str, Any], chosen: set[str]) -> None:
    made = Rule.model_validate(RULE | rule)
    assert {name for name, sign in SIGNS.items() if sign.is_chosen_by(made)} == chosen


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("chat", ["chat"], ["chats", "Chat", ""]),
        ("*", ["", "a/b", "*"], []),
        ("chat-*", ["chat-", "chat-x"], ["chat", "my-chat-x"]),
        ("*chat", ["chat", "chat-chat"], ["chats"]),
        ("a*a", ["aa", "aba"], ["a", "ab"]),
        ("a*bc*cd", ["abccd", "a-bc-cd"], ["abcd"]),
        ("a.b[c]", ["a.b[c]"], ["axb[c]", "a.bc"]),
    ],
)
def test_a_star_is_any_text_and_nothing_else_is(pattern: str, names: list[str], others: list[str]) -> None:
    rule = Rule.model_validate(RULE | {"model": pattern})
    assert all(rule.names(each) for each in names)
    assert not any(rule.names(each) for each in others)


def test_a_name_that_nearly_fits_is_looked_at_once() -> None:
    rule = Rule.model_validate(RULE | {"model": "*-*-*-*-*x"})
    started = time.process_time()
    assert not rule.names("-" * 256)
    assert time.process_time() - started < 0.5


def test_without_any_there_is_none() -> None:
    assert load_registries("") == Registries()
