"""Every hint is something that can be done: commands in it exist with their options, whoever wrote it."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from spinal.cli.main import app
from spinal.cli.next_steps import HERE, NEXT_STEPS, UNREGISTERED, next_step
from spinal.connection import error_of
from spinal.errors import all_errors
from tests.support.places import ROOT

PRODUCT = ("spinal", "service", "worker", "devstack")
IN_BACKTICKS = re.compile(r"`(spinal [^`]+)`")
REQUESTS = re.compile(r"\b(GET|POST|PUT|DELETE)\b|/v1/|Bearer|Content-Type|openapi")
"""What nobody can do on a command line."""
COMMAND = typer.main.get_group(app)


@dataclass(frozen=True)
class Text:
    where: str
    text: str


def text_of(node: ast.AST) -> str | None:
    """A literal, with X where an f-string puts a value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else placed(part) for part in node.values)
    return None


def placed(part: ast.AST) -> str:
    # Options to which a value belongs are put in by at().
    return "" if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Call) else "X"


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for folder in PRODUCT:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def literals() -> Iterator[Text]:
    for path, tree in trees():
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            text = text_of(node)
            if isinstance(node, ast.expr) and text is not None and id(node) not in inner:
                yield Text(f"{path}:{node.lineno}", text)


def documents() -> Iterator[Text]:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]:
        text = path.read_text()
        yield Text(str(path.relative_to(ROOT)), " ".join(text.split()))


def fenced() -> Iterator[Text]:
    """Lines of shell in documents that call spinal."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        blocks = re.findall(r"```(?:bash|sh|console|shell)\n(.*?)```", path.read_text(), re.DOTALL)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            if line.startswith("spinal "):
                yield Text(str(path.relative_to(ROOT)), f"`{line.partition(' | ')[0]}`")


def hints_in(tree: ast.Module) -> Iterator[tuple[ast.keyword, str]]:
    names = {
        target.id: text_of(node.value)
        for node in tree.body if isinstance(node, ast.Assign)
        for target in node.targets if isinstance(target, ast.Name)
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            text = names.get(node.value.id) if isinstance(node.value, ast.Name) else text_of(node.value)
            if text is not None:
                yield node, text


def commands(texts: Iterator[Text]) -> dict[str, str]:
    """Command -> where it stands."""
    return {found: one.where for one in texts for found in IN_BACKTICKS.findall(one.text)}


SAID = commands(literals())
WRITTEN = commands(documents()) | commands(fenced())


def hints() -> Iterator[Text]:
    for path, tree in trees():
        for node, text in hints_in(tree):
            yield Text(f"{path}:{node.lineno}", text)
    for step in (*NEXT_STEPS.values(), *HERE.values(), UNREGISTERED):
        yield Text("NEXT_STEPS", step)


HINTED = commands(hints())


def parse(line: str, *, whole: bool = True) -> None:
    """Parse a command line as ``spinal`` does, and carry nothing out; raises what the parser raises. A command that is
    only mentioned (not ``whole``) may lack its arguments."""
    words = shlex.split(line, comments=True)[1:]
    command: Any = COMMAND
    context = command.make_context("spinal", [], resilient_parsing=True)
    while hasattr(command, "resolve_command") and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        if found is None:
            raise LookupError(f"no such command: {name}")
        command = found._load() if hasattr(found, "_load") else found
        context = context.__class__(command, info_name=name, parent=context)
    if not whole and all(word.startswith("-") for word in words):
        known = {option for parameter in command.params for option in (*parameter.opts, "--help")}
        if set(words) <= known:
            return
    if words != ["--help"]:
        command.make_context(command.name, words, parent=context.parent)


def test_commands_are_found() -> None:
    assert len(SAID) > 10
    assert len(WRITTEN) > 10


@pytest.mark.parametrize("command", sorted(HINTED))
def test_every_command_in_a_hint_is_one(command: str) -> None:
    parse(command)


@pytest.mark.parametrize("command", sorted((SAID | WRITTEN).keys() - HINTED.keys()))
def test_every_command_that_is_named_is_one(command: str) -> None:
    parse(command, whole=False)


@pytest.mark.parametrize("wrong", ["spinal lists", "spinal wait", "spinal list --nonsense", "spinal models push X Y"])
def test_what_is_no_command_is_noticed(wrong: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|missing"):
        parse(wrong)


def test_commands_stand_in_backticks_wherever_they_are_said() -> None:
    known = "|".join(COMMAND.commands)
    bare = re.compile(rf"(?<![`\w.])spinal (?:{known})\b")
    given = list(hints())
    assert len(given) > 150
    assert [one for one in given if bare.search(IN_BACKTICKS.sub("", one.text))] == []


def raised() -> Iterator[tuple[str, str, str]]:
    """Class, detail and hint of every error that is made with a hint written there."""
    for _, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            hints = [text_of(word.value) for word in node.keywords if word.arg == "hint"]
            if hints and hints[0] is not None and node.args:
                yield name, text_of(node.args[0]) or "", hints[0]


def test_what_came_over_http_is_told_as_something_to_do_here() -> None:
    codes = {error.__name__: code for code, error in all_errors().items()}
    told, met = [], 0
    for name, detail, hint in raised():
        if name in codes:
            error = error_of({"code": codes[name], "detail": detail, "hint": hint})
            met += REQUESTS.search(hint) is not None
            if REQUESTS.search(next_step(error) or ""):
                told.append((name, hint))
    assert met > 5
    assert told == []


def test_next_steps_are_of_errors_there_are() -> None:
    assert set(NEXT_STEPS) <= set(all_errors())
    assert not any(REQUESTS.search(step) for step in (*NEXT_STEPS.values(), UNREGISTERED))


def test_whoever_measures_here_is_told_what_to_do_and_not_what_an_operator_does() -> None:
    for code in HERE:
        error = all_errors()[code]("d", hint="an operator lists it")
        assert next_step(error) == HERE[code]
        assert next_step(all_errors()[code]("d")) == HERE[code]
        assert next_step(all_errors()[code]("d", hint="wait an hour")) == "wait an hour"
    # Of a service they come from, who runs it is another one.
    for code in HERE:
        problem = {"code": code, "detail": "d", "hint": "give the workers a larger model store"}
        assert next_step(error_of(problem)) == NEXT_STEPS[code]


def test_hints_of_unknown_codes_for_who_writes_requests_are_not_shown() -> None:
    assert next_step(error_of({"code": "of_later", "detail": "d", "hint": "send it with POST /v1/things"})) is None
    assert next_step(error_of({"code": "of_later", "detail": "d", "hint": "wait an hour"})) == "wait an hour"
