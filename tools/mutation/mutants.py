"""The mutants of a file: every place where an operator finds something to change, and the text with the change."""

import ast
import difflib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor

from tools.mutation.operators import is_beside_the_point, operators

MODULE = "<module>"
"""What a mutant outside of every function belongs to."""


@dataclass(frozen=True)
class Mutant:
    """One change. ``where`` is the function (or class and method), ``was`` and ``becomes`` are the lines that differ:
    this is how accepted survivors are recognised, in whatever file the function lies."""

    file: str
    line: int
    operator: str
    where: str
    was: str
    becomes: str
    text: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.where, self.was, self.becomes


def mutants_of(root: Path, file: str) -> list[Mutant]:
    """All mutants of ``root / file`` that are Python at all, each once."""
    source = (root / file).read_text(encoding="utf-8")
    owners = _owners(source)
    found: dict[str, Mutant] = {}
    for name, line, text in _mutated(source):
        if text in found or not _compiles(text):
            continue
        was, becomes = _difference(source, text)
        if was != becomes:
            found[text] = Mutant(file, line, name, owners.get(line, MODULE), was, becomes, text)
    return sorted(found.values(), key=lambda mutant: mutant.line)


def _mutated(source: str) -> Iterator[tuple[str, int, str]]:
    nodes = list(ast_nodes(get_ast(source)))
    for name, make in operators().items():
        occurrence = -1
        for node in nodes:
            # Places are counted as Cosmic Ray counts them, whether or not they are wanted here.
            for (line, _), _ in make().mutation_positions(node):
                occurrence += 1
                if is_beside_the_point(node):
                    continue
                text = MutationVisitor.mutate_code(source, make(), occurrence)
                if text is not None:
                    yield name, line, text


def _compiles(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _owners(source: str) -> dict[int, str]:
    """Line -> qualified name of the outermost function that holds it."""
    found: dict[int, str] = {}

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                    found[line] = f"{prefix}{node.name}"

    look(ast.parse(source).body, "")
    return found


def _difference(source: str, text: str) -> tuple[str, str]:
    one, other = source.splitlines(), text.splitlines()
    was, becomes = [], []
    for tag, i, j, k, m in difflib.SequenceMatcher(a=one, b=other, autojunk=False).get_opcodes():
        if tag != "equal":
            was += [" ".join(line.split()) for line in one[i:j]]
            becomes += [" ".join(line.split()) for line in other[k:m]]
    return " ".join(was), " ".join(becomes)
