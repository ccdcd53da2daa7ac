"""The examples of ``docs/training.md`` call what there is, with arguments that it has."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from spinal.integrations import send_spooled
from spinal.integrations.callback import Hooks
from spinal.profile import MeasurementProfile
from tests.support.places import ROOT

CALLED: dict[str, Callable[..., Any]] = {"SpinalCallback": Hooks, "send_spooled": send_spooled}


def calls() -> Iterator[tuple[str, ast.Call]]:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLED:
                yield node.func.id, node


def test_every_argument_of_the_examples_is_one() -> None:
    found = list(calls())
    assert {name for name, _ in found} == set(CALLED)
    for name, call in found:
        keywords = {str(keyword.arg): None for keyword in call.keywords}
        bound = inspect.signature(CALLED[name]).bind(*call.args, **keywords)
        assert set(bound.arguments.get("knobs", {})) <= set(MeasurementProfile.model_fields)
