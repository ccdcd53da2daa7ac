"""Policies that ship with the package, and those that a file holds."""

import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from spinal.errors import UsageError

if TYPE_CHECKING:
    from spinal.documents.policy import Policy

OURS = "spinal-"
"""How names of policies begin that ship with the package."""
DEFAULT_POLICY = "spinal-default/2"
SHIPPED = {DEFAULT_POLICY: "spinal-default-2.yaml"}
"""By name, its file in ``spinal/policy/data``. A released one never changes: other rules take the next number."""


def default_policy() -> "Policy":
    """The policy of a verdict for which none was named."""
    return shipped_policy(DEFAULT_POLICY)


@cache
def shipped_policy(name: str) -> "Policy":
    """A policy that ships under this name; raises UsageError."""
    # Brings YAML and the rules along, which whoever only shows a stored verdict does without.
    from spinal.documents.policy import Policy
    from spinal.policy.reading import read_members

    if name not in SHIPPED:
        raise UsageError(f"no policy named {name!r}", hint=f"shipped: {', '.join(SHIPPED)}")
    data = resources.files("spinal.policy").joinpath("data", SHIPPED[name]).read_bytes()
    # Unchecked: the check asks which policies ship, and a test holds that it finds nothing in them.
    return Policy.model_validate(read_members(data, name))


def read_policy(named: str | os.PathLike[str]) -> "Policy":
    """The policy that ships under this name, or that a file (YAML or JSON) holds.

    Raises UsageError where there is neither, and DocumentInvalid for a file that holds no policy.
    """
    from spinal.policy.reading import MOST_BYTES, parse_policy

    name = os.fspath(named)
    if name in SHIPPED:
        return shipped_policy(name)
    path = Path(name)
    try:
        if path.is_file():
            with path.open("rb") as file:
                return parse_policy(file.read(MOST_BYTES + 1), name)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {getattr(error, 'strerror', None) or error}", hint="check the path") from error
    raise UsageError(
        f"no policy {name}", hint=f"give a file in YAML or JSON, or the name of one that ships: {', '.join(SHIPPED)}"
    )
