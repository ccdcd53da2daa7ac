"""The contract as one page of HTML: operations by what they are about, then the schemas they name."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

JsonObject = dict[str, Any]
FOLDER = Path(__file__).resolve().parent
CODE = re.compile(r"``(.+?)``|`(.+?)`")
BOUNDS = {
    "minimum": "at least {}", "exclusiveMinimum": "above {}", "maximum": "at most {}", "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters", "maxLength": "at most {} characters", "minItems": "at least {} items",
    "maxItems": "at most {} items", "maxProperties": "at most {} members", "pattern": "like {}",
    "default": "default {}",
}  # fmt: skip
NOUNS = {"catalog": "models, prompt sets and policies", "results": "traces", "health": "the service itself"}
"""How a group of operations is called, where its tag does not say it."""


@dataclass(frozen=True)
class Member:
    """A parameter, a header, or a member of an object."""

    name: str
    place: str
    kind: Markup
    required: bool
    notes: str
    said: Markup


@dataclass(frozen=True)
class Answer:
    status: str
    said: Markup
    content: tuple[tuple[str, Markup], ...]
    headers: tuple[str, ...]
    codes: tuple[str, ...]


@dataclass(frozen=True)
class Operation:
    id: str
    method: str
    path: str
    summary: str
    said: Markup
    takes: tuple[Member, ...]
    bodies: tuple[tuple[str, Markup], ...]
    answers: tuple[Answer, ...]
    example: str


@dataclass(frozen=True)
class Schema:
    name: str
    said: Markup
    kind: Markup
    members: tuple[Member, ...]


def render(contract: JsonObject) -> str:
    """The page of a contract."""
    schemas = contract["components"]["schemas"]
    groups: dict[str, list[Operation]] = {}
    for path, operations in contract["paths"].items():
        for method, operation in operations.items():
            made = _operation(method, path, operation, schemas)
            groups.setdefault(operation["tags"][0], []).append(made)
    return _environment().get_template("page.html").render(
        title=contract["info"]["title"],
        version=contract["info"]["version"],
        said=[prose(part) for part in contract["info"]["description"].split("\n\n")],
        groups={NOUNS.get(tag, tag): made for tag, made in groups.items()},
        schemas=[_schema(name, schema) for name, schema in sorted(schemas.items())],
        style=style(),
    )  # fmt: skip


@cache
def style() -> Markup:
    return Markup((FOLDER / "page.css").read_text(encoding="utf-8"))  # noqa: S704  our own file


@cache
def content_policy() -> str:
    """What a browser lets the page do: use its own style sheet, by its digest, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def prose(text: str) -> Markup:
    """A text of the contract, with its code set as such."""
    found = str(escape(text))
    return Markup(CODE.sub(lambda code: f"<code>{code[1] or code[2]}</code>", found))  # noqa: S704  escaped above


def kind_of(schema: JsonObject) -> Markup:
    """What values of a schema are, in a few words, with links to the schemas that it names."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[1]
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    if "enum" in schema or "const" in schema:
        return _joined([Markup("<code>{}</code>").format(json.dumps(value)) for value in _listed(schema)])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _joined([kind_of(each) for each in schema[several]])
    kinds = schema.get("type", "any value")
    if isinstance(kinds, list):
        return _joined([kind_of({**schema, "type": kind}) for kind in kinds])
    if kinds == "array":
        return Markup("list of {}").format(kind_of(schema.get("items", {})))
    if kinds == "object" and isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of {}").format(kind_of(schema["additionalProperties"]))
    return escape(f"{kinds} ({schema['format']})" if "format" in schema else kinds)


def _listed(schema: JsonObject) -> list[Any]:
    return list(schema["enum"]) if "enum" in schema else [schema["const"]]


def _joined(kinds: list[Markup]) -> Markup:
    return Markup(" or ").join(dict.fromkeys(kinds))


def _operation(method: str, path: str, operation: JsonObject, schemas: JsonObject) -> Operation:
    bodies = operation.get("requestBody", {}).get("content", {})
    takes = tuple(
        _member(each["name"], each["in"], each["schema"], each.get("required", False), each.get("description"))
        for each in operation.get("parameters", ())
    )
    return Operation(
        operation["operationId"],
        method.upper(),
        path,
        operation["summary"],
        prose(operation.get("description", "")),
        takes,
        tuple((name, kind_of(body.get("schema", {}))) for name, body in bodies.items()),
        tuple(_answer(status, answer) for status, answer in operation["responses"].items()),
        _example(method.upper(), path, operation, schemas),
    )


def _answer(status: str, answer: JsonObject) -> Answer:
    content = answer.get("content", {})
    codes = sorted({code for each in content.values() for code in each.get("examples", ())})
    return Answer(
        status,
        prose(answer.get("description", "")),
        tuple((name, kind_of(each.get("schema", {}))) for name, each in content.items()),
        tuple(answer.get("headers", ())),
        tuple(codes),
    )


def _member(name: str, place: str, schema: JsonObject, required: bool, said: str | None) -> Member:
    notes = ", ".join(_bounds(schema))
    return Member(name, place, kind_of(schema), required, notes, prose(said or schema.get("description", "")))


def _bounds(schema: JsonObject) -> Iterator[str]:
    inner = [each for several in ("anyOf", "oneOf") for each in schema.get(several, ())]
    for bounded in (schema, *inner):
        for name, words in BOUNDS.items():
            value = bounded.get(name)
            if value is not None and value not in ([], {}):
                yield words.format(value if name == "pattern" else json.dumps(value, ensure_ascii=False))


def _schema(name: str, schema: JsonObject) -> Schema:
    required = set(schema.get("required", ()))
    members = schema.get("properties", {})
    return Schema(
        name,
        prose(schema.get("description", "")),
        Markup() if members else kind_of(schema),
        tuple(_member(each, "", member, each in required, None) for each, member in members.items()),
    )


def _example(method: str, path: str, operation: JsonObject, schemas: JsonObject) -> str:
    """A command to paste, with what belongs to the caller in variables."""
    parts = ["curl"] + ([] if method == "GET" else [f"-X {method}"])
    if "security" in operation:
        parts.append('-H "Authorization: Bearer $SPINAL_API_KEY"')
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        named = str(body["schema"].get("$ref", "")).rsplit("/", 1)[-1]
        shown = next(iter(schemas.get(named, {}).get("examples", ())), None)
        parts.append("-H 'Content-Type: application/json'")
        parts.append("-d @body.json" if shown is None else f"-d '{json.dumps(shown)}'")
    return " \\\n  ".join([*parts, f'"$SPINAL_SERVER{path}"'])


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
