"""``MLmodel``, the file in which MLflow says what a logged model is."""

import re
from typing import Any

import yaml

from spinal.errors import ModelNotFound
from spinal.errors.faults import shown
from spinal.policy.strict_yaml import StrictLoader

MLMODEL = "MLmodel"
MOST_BYTES = 2**20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,95})?")
COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_reference(raw: bytes, called: str) -> str | None:
    """``hf:NAME@COMMIT`` of the model that was logged by name alone; None where MLmodel names none.

    Raises ModelNotFound where it names one that can move, or cannot be read."""
    flavour = _flavour(raw, called)
    name, commit = flavour.get("source_model_name"), flavour.get("source_model_revision")
    if not isinstance(name, str) or not NAME.fullmatch(name) or ".." in name:
        return None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise ModelNotFound(
            f"{shown(called)} holds no weights, and its {MLMODEL} names {name} without a commit, which means another "
            "model when that one moves",
            hint="log it again with its weights, or audit the model on the hub at a commit",
        )
    return f"hf:{name}@{commit}"


def _flavour(raw: bytes, called: str) -> dict[str, Any]:
    try:
        found = yaml.load(raw.decode("utf-8"), Loader=StrictLoader)  # noqa: S506  a loader of the safe kind
    except (UnicodeError, yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise ModelNotFound(
            f"{shown(called)} holds no weights, and its {MLMODEL} cannot be read", hint="log the model again"
        ) from error
    for member in ("flavors", "transformers"):
        found = found.get(member) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
