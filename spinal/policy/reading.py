"""A policy from a file's bytes, or the one line that says what is wrong with it."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from spinal.documents.policy import Policy, Side
from spinal.errors import DocumentInvalid
from spinal.policy.kinds import KINDS
from spinal.policy.shipped import OURS
from spinal.policy.values import known_values, named

MOST_BYTES = 256 * 1024
HINT = "docs/policies.md shows a whole one"


def parse_policy(data: bytes | str, origin: str) -> Policy:
    """The policy that a file holds, as YAML or JSON. ``origin`` is what errors call it.

    Raises DocumentInvalid, which names the rule and the member.
    """
    return make_policy(read_members(data, origin), origin)


def read_members(data: bytes | str, origin: str) -> Any:
    """What YAML or JSON holds, whatever that is; raises DocumentInvalid where it is neither."""
    if len(data) > MOST_BYTES:
        raise DocumentInvalid(f"{origin}: a policy has at most {MOST_BYTES // 1024} KiB", hint=HINT)
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise DocumentInvalid(f"{origin}: is not UTF-8", hint=HINT) from error
    return _members(text, origin)


def make_policy(members: Any, origin: str) -> Policy:
    """The policy with these members, checked whole: its form, that its values exist, that its limits can be reached.
    Raises DocumentInvalid."""
    if not isinstance(members, Mapping):
        raise DocumentInvalid(f"{origin}: a policy is a mapping with name and rules", hint=HINT)
    try:
        policy = Policy.model_validate(dict(members))
    except ValidationError as error:
        raise DocumentInvalid(f"{origin}: {_first(error, members)}", hint=HINT) from error
    check_policy(policy, origin)
    return policy


def check_policy(policy: Policy, origin: str) -> None:
    """What its form leaves open: that the values exist and the limits can be reached. Raises DocumentInvalid."""
    for rule in policy.rules:
        for member, path, bad, limit in KINDS[rule.kind].values(rule):
            wrong = _wrong(path, bad, limit)
            if wrong is not None:
                known = ", ".join(each.path for each in known_values())
                raise DocumentInvalid(f"{origin}: rule {rule.name!r}: {member}: {wrong}", hint=f"known: {known}")
    if policy.name.startswith(OURS) and policy.digest not in _shipped_digests():
        raise DocumentInvalid(
            f"{origin}: name: {policy.name!r} is kept for policies that ship, and this is none of them",
            hint=f"call it after whoever it is for, for example acme-{policy.name.removeprefix(OURS)}",
        )


def _shipped_digests() -> set[str]:
    # The shipped ones are read by this module.
    from spinal.policy.shipped import SHIPPED, shipped_policy

    return {shipped_policy(name).digest for name in SHIPPED}


def _wrong(path: str, bad: Side, limit: float) -> str | None:
    listed = named(path)
    if listed is None:
        return f"there is no value {path!r}"
    if limit > listed.high if bad == "above" else limit < listed.low:
        end = listed.high if bad == "above" else listed.low
        return f"{path} is never {bad} {limit:g}: it ends at {end:.3g}"
    return None


def _first(error: ValidationError, members: Mapping[str, Any]) -> str:
    """The first thing that is wrong, in one line: the rule by its name, the member, and what is wrong with it."""
    found = error.errors(include_url=False)[0]
    place = [str(part + 1) if isinstance(part, int) else part for part in found["loc"]]
    said = found["msg"].removeprefix("Value error, ")
    if found["type"] == "extra_forbidden":
        said = "no such member"
    elif found["type"] == "missing":
        said = "is missing"
    elif found["type"] == "string_type":
        said = "is no text"
    elif found["type"] in ("date_parsing", "date_from_datetime_parsing"):
        said = "there is no such day"
    elif found["type"] == "tuple_type":
        said = "is no list"
    elif found["type"] == "too_short":
        said = "is empty"
    elif found["type"].startswith("union_tag"):
        said = f"kind: one of {', '.join(KINDS)}"
    elif found["type"] == "string_pattern_mismatch" and place == ["name"]:
        said = "is written as name/version, for example acme-release/1 (small letters, digits, . _ -)"
    if place[:1] == ["rules"] and len(place) > 1:
        rules, number = members.get("rules"), int(place[1]) - 1
        rule = rules[number] if isinstance(rules, list | tuple) else None
        name = rule.get("name") if isinstance(rule, Mapping) else None
        called = f"rule {name!r}" if isinstance(name, str) else f"rule {number + 1}"
        # After the rule's number comes its kind, where it has one.
        place = [called, *place[3:]]
    return " ".join(": ".join([*place, said]).split())


def _members(text: str, origin: str) -> Any:
    if text.lstrip()[:1] == "{":
        try:
            return _json(text)
        except json.JSONDecodeError:
            # A mapping of YAML begins so, too.
            pass
        except (ValueError, RecursionError) as error:
            raise DocumentInvalid(f"{origin}: {_one_line(error)}", hint=HINT) from error
    return _yaml(text, origin)


def _json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"{key!r} is given twice")
            found[key] = value
        return found

    return json.loads(text, object_pairs_hook=unique)


def _yaml(text: str, origin: str) -> Any:
    import yaml

    from spinal.policy.strict_yaml import StrictLoader

    try:
        # Of the safe loader's kind: it makes lists, mappings, texts, numbers and dates, and nothing else.
        return yaml.load(text, Loader=StrictLoader)  # noqa: S506  a loader of the safe kind
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise DocumentInvalid(f"{origin}: {where}{_one_line(error.problem or error.context)}", hint=HINT) from error
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise DocumentInvalid(f"{origin}: is no YAML: {_one_line(error)}", hint=HINT) from error


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
