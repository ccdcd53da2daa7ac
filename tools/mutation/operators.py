"""What is changed in Python code: a selection of Cosmic Ray's operators, and those that it lacks.

Cosmic Ray exchanges an operator for every other one; one exchange of each kind is enough to see whether a test looks at
it, and ten cost ten times as long.
"""

import ast
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import parso.python.tree as tree
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator
from parso.tree import NodeOrLeaf

from tools.mutation import sql

CORE = (
    *(
        f"ReplaceBinaryOperator_{one}"
        for one in (
            "Add_Sub",
            "Sub_Add",
            "Mul_Div",
            "Div_Mul",
            "FloorDiv_Div",
            "Pow_Mul",
            "BitAnd_BitOr",
            "BitOr_BitAnd",
        )
    ),
    *(
        f"ReplaceComparisonOperator_{one}"
        for one in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")
    ),
    *(f"ReplaceUnaryOperator_Delete_{one}" for one in ("USub", "Invert", "Not")),
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ZeroIterationForLoop",
)
TWINS = {
    "min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum",
    "argmax": "argmin", "ceil": "floor", "abs": "float",
}  # fmt: skip
"""Functions whose place another can take; ``abs`` loses a sign."""
RINGS = (
    ("pass", "warn", "fail", "inconclusive"),
    ("none", "watch", "damaged"),
    ("last", "all"),
    *sql.RINGS,
)
NO_ORDER = ("isinstance", "getattr", "min", "max", ".minimum", ".maximum")
"""Functions whose arguments are not worth exchanging."""
CLAUSES = ("where", "order_by", "limit", "desc", "on_conflict_do_nothing")


def _code(nodes: Iterable[NodeOrLeaf]) -> str:
    return "".join(node.get_code() for node in nodes)


def _instead(node: NodeOrLeaf, code: str) -> NodeOrLeaf:
    """A leaf that says ``code`` where ``node`` stood."""
    return tree.Name(code, node.start_pos, prefix=node.get_first_leaf().prefix)


class _Own(Operator):
    """An operator as one function."""

    @abstractmethod
    def codes(self, node: NodeOrLeaf) -> list[str]:
        """The codes that may take the place of ``node``, each a mutant."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        for _ in self.codes(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        return _instead(node, self.codes(node)[index])

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return ()


class TurnedAround(_Own):
    """``a - b`` -> ``b - a``, ``a / b`` -> ``b / a``: the sign and nothing else."""

    def codes(self, node: NodeOrLeaf) -> list[str]:
        if node.type not in ("arith_expr", "term"):
            return []
        parts = node.children
        return [
            f"({parts[at + 1].get_code().strip()} {part.value} ({_code(parts[:at]).strip()})){_code(parts[at + 2 :])}"
            for at, part in enumerate(parts)
            if part.type == "operator" and part.value in "-/"
        ]


class Negated(_Own):
    """The condition of an if, elif, while, comprehension or conditional expression is turned into its opposite."""

    OPPOSED = ("==", "!=", "is", "is not")
    """Comparisons that another operator turns around already."""

    def codes(self, node: NodeOrLeaf) -> list[str]:
        parent, before = node.parent, node.get_previous_sibling()
        if parent is None or before is None or before.type != "keyword" or before.value not in ("if", "elif", "while"):
            return []
        if node.type == "comparison" and node.children[1].get_code().strip() in self.OPPOSED:
            return []
        return [f"not ({node.get_code(include_prefix=False)})"]


class OneMore(_Own):
    """A number grows by one."""

    def codes(self, node: NodeOrLeaf) -> list[str]:
        return [str(ast.literal_eval(node.value) + 1)] if node.type == "number" else []


class Uncaught(_Own):
    """An exception that was caught goes on its way."""

    def codes(self, node: NodeOrLeaf) -> list[str]:
        of = node.parent
        while of is not None and of.type in ("testlist_comp", "atom"):
            of = of.parent
        caught = of is not None and of.type == "except_clause" and node.type in ("name", "atom_expr", "power")
        is_name_of_it = caught and len(of.children) > 2 and node is of.children[3]
        return ["StopAsyncIteration"] if caught and not is_name_of_it else []


class DroppedCall(_Own):
    """A call whose answer nobody takes is left out."""

    def codes(self, node: NodeOrLeaf) -> list[str]:
        alone = node.type in ("atom_expr", "power") and node.parent is not None and node.parent.type == "simple_stmt"
        return ["None"] if alone and node.children[-1].get_code().startswith("(") else []


class SwappedArguments(_Own):
    """The first two positional arguments change places."""

    def codes(self, node: NodeOrLeaf) -> list[str]:
        if node.type != "arglist" or node.parent is None or node.parent.type != "trailer":
            return []
        called = node.parent.get_previous_sibling()
        given = [child for child in node.children if child.type != "operator"][:2]
        plain = len(given) == 2 and all(
            child.type != "argument" or child.children[1].type == "sync_comp_for" for child in given
        )
        if not plain or node.children[0].type == "operator" or called.get_code() in NO_ORDER:
            return []
        one, other = (child.get_code().strip() for child in given)
        rest = _code(node.children[node.children.index(given[1]) + 1 :])
        return [f"{other}, {one}{rest}"] if one != other else []


class Twin(_Own):
    """A function gives way to its opposite."""

    def codes(self, node: NodeOrLeaf) -> list[str]:
        if node.type != "name" or node.value not in TWINS:
            return []
        following = node.get_next_leaf()
        of_numpy = node.get_previous_leaf() is not None and node.get_previous_leaf().value == "."
        twin = "positive" if node.value == "abs" and of_numpy else TWINS[node.value]
        return [twin] if following is not None and following.value == "(" else []


class AnotherWord(_Own):
    """A word of a closed vocabulary (states, outcomes, levels, roles) is exchanged for the next one."""

    def codes(self, node: NodeOrLeaf) -> list[str]:
        if node.type != "string":
            return []
        word = node.value.strip("\"'")
        return [f'"{ring[(ring.index(word) + 1) % len(ring)]}"' for ring in RINGS if word in ring][:1]


class Clause(_Own):
    """A clause of a query built from Python, or one of several conditions, is left out."""

    def codes(self, node: NodeOrLeaf) -> list[str]:
        if node.type not in ("atom_expr", "power"):
            return []
        found, parts = [], node.children
        for at in range(1, len(parts) - 1):
            if parts[at].get_code().strip().removeprefix(".") not in CLAUSES:
                continue
            found.append(_code(parts[:at]) + _code(parts[at + 2 :]))
            inside = parts[at + 1].children[1]
            given = [c for c in inside.children if c.type != "operator"] if inside.type == "arglist" else []
            for left_out in given:
                kept = ", ".join(one.get_code().strip() for one in given if one is not left_out)
                found.append(f"{_code(parts[: at + 1])}({kept}){_code(parts[at + 2 :])}")
        return [code.strip() for code in found]


class Statement(_Own):
    """An SQL statement, or a part of one, inside a string (``sql.py``)."""

    def codes(self, node: NodeOrLeaf) -> list[str]:
        whole = node.type == "fstring" or (node.type == "string" and node.parent.type != "fstring")
        if not whole or _is_docstring(node):
            return []
        literal = node.get_code(include_prefix=False)
        return [change.apply(literal) for change in sql.inside(literal)]


def _is_docstring(node: NodeOrLeaf) -> bool:
    return bool(node.parent is not None and node.parent.type == "simple_stmt")


def is_beside_the_point(node: NodeOrLeaf) -> bool:
    """Whether a node belongs to an annotation, a type, the signs of a signature or a decorator: nothing there is a
    rule. ``frozen=True`` guards against mistakes, and no test should make one to see it."""
    child, parent = node, node.parent
    if node.type == "operator" and parent is not None and parent.type in ("parameters", "lambdef"):
        return True
    while parent is not None:
        if parent.type == "decorator":
            return True
        if parent.type == "annassign" and parent.children[1] is child:
            return True
        if parent.type == "tfpdef" or (parent.type == "funcdef" and child is getattr(parent, "annotation", None)):
            return True
        if parent.type == "trailer" and _code([parent.get_previous_sibling()]).strip() in ("Literal", "Field"):
            return True
        child, parent = parent, parent.parent
    return False


def operators() -> dict[str, Callable[[], Any]]:
    """Operators by name."""
    own = (
        TurnedAround,
        Negated,
        OneMore,
        Uncaught,
        DroppedCall,
        SwappedArguments,
        Twin,
        AnotherWord,
        Clause,
        Statement,
    )
    return {name: get_operator(f"core/{name}") for name in CORE} | {one.__name__: one for one in own}
