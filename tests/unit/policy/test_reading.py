"""A policy that cannot mean anything is refused in one line that names the rule and the member, before any work."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinal.documents.policy import Policy
from spinal.documents.schemas import load
from spinal.errors import DocumentInvalid, UsageError
from spinal.policy.reading import MOST_BYTES, check_policy, make_policy, parse_policy
from spinal.policy.shipped import SHIPPED, default_policy, read_policy, shipped_policy

RULE = {"name": "worse", "value": "damage.nll_change", "bad": "above", "limit": 0.5, "severity": "fail"}
WHILE = {"value": "damage.nll_change", "bad": "above", "limit": 0.3}
GAP = {"value": "damage.gap", "bad": "above", "limit": 1.0}


def of(*rules: Any, **members: Any) -> dict[str, Any]:
    return {"name": "acme-release/3", "rules": list(rules), **members}


def yaml_of(limit: str) -> str:
    return (
        "name: acme-release/3\nrules:\n  - name: worse\n    value: damage.nll_change\n    bad: above\n"
        f"    severity: fail\n    limit: {limit}\n"
    )


WRONG: dict[str, tuple[Any, str]] = {
    "no mapping": ([RULE], "a policy is a mapping"),
    "no name": ({"rules": [RULE]}, "name: is missing"),
    "a name without a version": (of(RULE, name="acme"), "name: is written as name/version"),
    "no rules": ({"name": "acme/1"}, "rules: is missing"),
    "an empty list of rules": (of(), "rules: "),
    "an unknown member": (of(RULE, limits=3), "limits: no such member"),
    "an unknown member of a rule": (of(RULE | {"sevrity": "warn"}), "rule 'worse': sevrity: no such member"),
    "a kind that there is not": (of(RULE | {"kind": "maximum"}), "rule 'worse': kind: one of limit, agreement"),
    "a kind that is no word": (of(RULE | {"kind": 3}), "rule 'worse': kind: one of limit, agreement"),
    "a rule that is no mapping": (of("worse"), "rule 1: kind: one of"),
    "a rule without a name": (of({k: v for k, v in RULE.items() if k != "name"}), "rule 1: name: is missing"),
    "no limit": (of({k: v for k, v in RULE.items() if k != "limit"}), "rule 'worse': limit: is missing"),
    "a limit that is no number": (of(RULE | {"limit": "much"}), "rule 'worse': limit: "),
    "a limit that is a word of YAML": (of(RULE | {"limit": True}), "limit: true and false are no numbers"),
    "a value that nobody sees": (
        of(RULE | {"value": "categories.\x1b[2J.nll_change"}), "rule 'worse': value: holds characters that nobody sees",
    ),
    "a limit in quotes": (of(RULE | {"limit": "0.5"}), "rule 'worse': limit: a number is written without quotes"),
    "a limit of an agreement in quotes": (
        of({"kind": "agreement", "name": "both", "severity": "fail", "at_least": 1, "among": [GAP],
            "while": WHILE | {"limit": "0.3"}}),
        "rule 'both': while: limit: a number is written without quotes",
    ),
    "a number of values that is a word of YAML": (
        of({"kind": "agreement", "name": "both", "severity": "fail", "at_least": True, "among": [GAP],
            "while": WHILE}),
        "rule 'both': at_least: true and false are no numbers",
    ),
    "a waiver that says nothing": (
        of(RULE | {"waiver": {"reason": " ", "expires": "2027-01-01"}}), "rule 'worse': waiver: reason: says nothing",
    ),
    "keys that are no list": (of({"kind": "settings", "name": "keys", "allowed": "rope"}), "allowed: is no list"),
    "a name that is no text": (of(RULE, name=3), "name: is no text"),
    "a limit that is not finite": (of(RULE | {"limit": float("nan")}), "rule 'worse': limit: "),
    "a severity that there is not": (of(RULE | {"severity": "error"}), "rule 'worse': severity: "),
    "two rules of one name": (of(RULE, RULE), "rules: two are called 'worse'"),
    "a value that there is not": (
        of(RULE | {"value": "damage.nll"}), "rule 'worse': value: there is no value 'damage.nll'",
    ),
    "a namespace alone": (of(RULE | {"value": "damage"}), "rule 'worse': value: there is no value 'damage'"),
    "a namespace that there is not": (of(RULE | {"value": "luck.gap"}), "rule 'worse': value: there is no value"),
    "a read-out that there is not": (of(RULE | {"value": "accounts.luck.total"}), "there is no value"),
    "a former of a former": (of(RULE | {"value": "former.former.damage.gap"}), "there is no value"),
    "a limit that no share reaches": (
        of(RULE | {"value": "damage.end_share_change", "bad": "below", "limit": -50}),
        "rule 'worse': value: damage.end_share_change is never below -50: it ends at -1",
    ),
    "a limit that no angle reaches": (of(RULE | {"value": "damage.gap", "limit": 30}), "is never above 30"),
    "a watch beyond the limit": (of(RULE | {"watch": 0.7}), "rule 'worse': watch: 0.7 lies beyond the limit 0.5"),
    "a certainty without a watch": (of(RULE | {"watch_surely_beyond": 0}), "rule 'worse': watch_surely_beyond"),
    "a negative effect": (of(RULE | {"minimum_effect": -1}), "rule 'worse': minimum_effect: "),
    "an unmeasured that there is not": (of(RULE | {"unmeasured": "ignore"}), "rule 'worse': unmeasured: "),
    "a waiver without a reason": (
        of(RULE | {"waiver": {"expires": "2027-01-01"}}), "rule 'worse': waiver: reason: is missing",
    ),
    "a waiver with an empty reason": (
        of(RULE | {"waiver": {"reason": "", "expires": "2027-01-01"}}), "rule 'worse': waiver: reason: ",
    ),
    "a day written another way": (
        of(RULE | {"waiver": {"reason": "r", "expires": "31.12.2027"}}), "rule 'worse': waiver: expires: a day is",
    ),
    "a day that there is not": (
        of(RULE | {"waiver": {"reason": "r", "expires": "2027-02-30"}}),
        "rule 'worse': waiver: expires: there is no such day",
    ),
    "a day that is a number": (
        of(RULE | {"waiver": {"reason": "r", "expires": 20271231}}), "rule 'worse': waiver: expires: a day is",
    ),
    "more agreement than values": (
        of({"kind": "agreement", "name": "both", "severity": "fail", "at_least": 2, "among": [GAP, GAP],
            "while": WHILE}),
        "rule 'both': at_least: 2 of 1 values can never agree",
    ),
    "a value that there is not among those that agree": (
        of({"kind": "agreement", "name": "both", "severity": "fail", "at_least": 1,
            "among": [GAP, GAP | {"value": "damage.luck"}], "while": WHILE}),
        "rule 'both': among.2.value: there is no value 'damage.luck'",
    ),
    "a name that is kept for what ships": (of(RULE, name="spinal-default/2"), "name: 'spinal-default/2' is kept"),
    "a schema of tomorrow": (of(RULE, schema="spinal.policy/9"), "schema: "),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name: str) -> None:
    members, said = WRONG[name]
    with pytest.raises(DocumentInvalid) as error:
        make_policy(members, "release.yaml")
    assert error.value.detail.startswith("release.yaml: ")
    assert said in error.value.detail
    assert "\n" not in error.value.detail
    assert error.value.hint


def test_an_unknown_value_comes_with_those_that_are_known() -> None:
    with pytest.raises(DocumentInvalid) as error:
        make_policy(of(RULE | {"value": "damage.nll"}), "p")
    assert "damage.nll_change" in (error.value.hint or "")
    assert "former.<path>" in (error.value.hint or "")


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "a policy is a mapping"),
    "a list": (b"- a\n- b\n", "a policy is a mapping"),
    "a word": (b"release", "a policy is a mapping"),
    "broken YAML": (b"name: [\n", "line "),
    "aliases of aliases": (BOMB.encode(), "line 1: anchors and aliases are not taken"),
    "an alias of nothing": (b"name: *x\n", "anchors and aliases are not taken"),
    "a tag that makes an object": (b"name: !!python/object/apply:os.system ['true']\n", "line 1: the tag "),
    "a tag of our own": (b"name: !x y\n", "line 1: the tag !x is not taken"),
    "a key twice": (yaml_of("0.5\n    limit: 9").encode(), "line 8: 'limit' is given twice"),
    "a key that is a list": (b"? [a]\n: b\n", "a key is a word"),
    "two documents": (b"name: a/1\n---\nname: b/1\n", "another document"),
    "a control character": (b"name: \x00\n", "is no YAML"),
    "no number": (yaml_of(".nan").encode(), "rule 'worse': limit: "),
    "no end": (yaml_of(".inf").encode(), "rule 'worse': limit: "),
    "a number in eights": (yaml_of("010").encode(), "line 7: 010: write it as a decimal number"),
    "a number in sixties": (yaml_of("1:30").encode(), "line 7: 1:30: write it as a decimal number"),
    "a number in sixties with a part": (yaml_of("1:30.5").encode(), "write it as a decimal number"),
    "a day that there is not": (
        yaml_of("0.5\n    waiver: {reason: known, expires: 2027-02-30}").encode(),
        "rule 'worse': waiver: expires: there is no such day",
    ),
    "a merged mapping": (b"<<: {name: a/1}\nrules: []\n", "line 1: << is not taken"),
    "too many digits": (yaml_of("1" * 5000).encode(), "is no YAML"),
    "lists in lists": (b"[" * 5000, "levels within each other"),
    "mappings in mappings": (b"a: " + b"{a: " * 3000, "levels within each other"),
    "more words than a policy has": (b"name: a/1\nrules: [" + b"a," * 20_000 + b"]", "words, mappings and lists"),
    "another encoding": ("name: é".encode("latin-1"), "is not UTF-8"),
    "too much": (b"#" * (MOST_BYTES + 1), "at most 256 KiB"),
    "a key twice in JSON": (b'{"name": "a/1", "name": "b/1"}', "'name' is given twice"),
    "JSON in JSON": (b'{"a": ' * 5000 + b"1", ""),
    "no number in JSON": (json.dumps(of(RULE | {"limit": float("nan")})).encode(), "rule 'worse': limit: "),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_holds_no_policy_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    data, said = UNREADABLE[name]
    path = tmp_path / "release.yaml"
    path.write_bytes(data)
    with pytest.raises(DocumentInvalid) as error:
        read_policy(path)
    assert said in error.value.detail
    assert "\n" not in error.value.detail
    assert len(error.value.detail) < 600


def test_yaml_and_json_say_the_same_policy(tmp_path: Path) -> None:
    waived = RULE | {"waiver": {"reason": "known", "expires": "2027-01-31"}}
    in_json = json.dumps(of(waived), indent="\t")
    in_yaml = yaml_of("0.5") + "    waiver: {reason: known, expires: 2027-01-31}\n"
    made = (
        parse_policy(in_json, "p"),
        parse_policy(in_yaml.encode(), "p"),
        parse_policy("\ufeff".encode() + in_yaml.encode(), "p"),
    )
    assert made[0] == made[1] == made[2]
    assert len({one.digest for one in made}) == 1
    # A mapping of YAML in braces is no JSON.
    assert parse_policy(
        "{name: acme-release/3, rules: [{name: a, value: damage.gap, bad: above, limit: 1, severity: warn}]}", "p"
    )
    path = tmp_path / "p.json"
    path.write_text(made[0].model_dump_json(by_alias=True))
    assert load(path) == made[0]


@pytest.mark.parametrize(("written", "read"), [("1e-3", 0.001), ("-2E+1", -20.0), ("1.5e0", 1.5), ("0.5", 0.5)])
def test_a_power_of_ten_is_a_number_with_and_without_a_point(written: str, read: float) -> None:
    assert parse_policy(yaml_of(written), "p").rules[0].limit == read  # type: ignore[union-attr]  # a limit


def test_the_digest_is_of_every_member_spelled_out() -> None:
    short = make_policy(of(RULE), "p")
    whole = make_policy(short.spelled_out(), "p")
    assert (whole, whole.digest) == (short, short.digest)
    assert make_policy(of(RULE | {"limit": 0.6}), "p").digest != short.digest


def test_policies_that_ship_pass_the_check_of_all_others() -> None:
    for name in SHIPPED:
        policy = shipped_policy(name)
        assert policy.name == name
        check_policy(policy, name)
        assert make_policy(policy.spelled_out(), name) == policy
    assert read_policy("spinal-default/2") is default_policy()


def test_what_is_neither_a_name_nor_a_file(tmp_path: Path) -> None:
    for named in ("acme-release/3", str(tmp_path), str(tmp_path / "none.yaml"), "a\0b"):
        with pytest.raises(UsageError):
            read_policy(named)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_are_anything_else_than_a_policy_or_refused(data: bytes) -> None:
    with suppress(DocumentInvalid):
        assert isinstance(parse_policy(data, "p"), Policy)
