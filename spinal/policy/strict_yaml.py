"""YAML without surprises: what PyYAML's safe loader makes, no key twice, no aliases, no tags, not too deep."""

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

DEEPEST = 16
"""Mappings and lists within each other; a policy needs six."""
MOST_NODES = 20_000
"""Words, mappings and lists in all: two hundred rules with every member have less than half of that, and each costs
some tens of microseconds, in which a service does nothing else."""


class StrictLoader(yaml.SafeLoader):
    """Refuses with a MarkedYAMLError that names the line."""

    _depth = 0
    _nodes = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            # An alias of an alias of an alias is as long as a disk.
            raise _refused("anchors and aliases are not taken: write it out", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _refused(f"the tag {event.tag} is not taken", event.start_mark)
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise _refused(f"more than {MOST_NODES} words, mappings and lists: send JSON", event.start_mark)
        self._depth += 1
        if self._depth > DEEPEST:
            raise _refused(f"more than {DEEPEST} levels within each other", event.start_mark)
        try:
            node: Node | None = super().compose_node(parent, index)
            return node
        finally:
            self._depth -= 1

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise _refused("<< is not taken: write it out", key.start_mark)
            if not isinstance(key, ScalarNode):
                raise _refused("a key is a word", key.start_mark)
            if key.value in seen:
                raise _refused(f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _decimal(loader: StrictLoader, node: ScalarNode) -> Any:
    """A number as everybody reads it: of old, YAML takes 010 for 8 and 1:30 for 90."""
    if ":" in node.value or re.match(r"[-+]?0[0-9_bx]", node.value):
        raise _refused(f"{node.value}: write it as a decimal number", node.start_mark)
    if node.tag == "tag:yaml.org,2002:int":
        return loader.construct_yaml_int(node)
    return loader.construct_yaml_float(node)


for _tag in ("int", "float"):
    StrictLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _decimal)


StrictLoader.add_implicit_resolver(
    # Of old, YAML takes 1e-3 for a text and 1.0e-3 for a number.
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"),
)  # fmt: skip


def _day(loader: StrictLoader, node: ScalarNode) -> Any:
    """A day as YAML reads it; one that is none stays a text, which the member that it stands in refuses by name."""
    try:
        return loader.construct_yaml_timestamp(node)
    except ValueError:
        return node.value


StrictLoader.add_constructor("tag:yaml.org,2002:timestamp", _day)


def _refused(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
