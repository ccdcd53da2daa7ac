"""How registered models are named: ``chat`` or ``acme/chat``, with ``:VERSION`` or ``@ALIAS`` behind it, or by id."""

import re
from dataclasses import dataclass

from spinal.checkpoints.sources import SOURCES

PART = "[A-Za-z0-9][A-Za-z0-9._-]*"
NAME = f"{PART}(?:/{PART})?"
MOST_NAME = 128
"""Characters of a name, with its organisation."""
VERSION = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
ALIAS = "[A-Za-z][A-Za-z0-9._-]{0,63}"
FORMS = "NAME or ORG/NAME, with :VERSION or @ALIAS behind it"
OF_ROUTES = ("versions", "aliases")
"""Second parts that no name has: what stands below a model's address."""
NAMED = re.compile(f"(?P<name>{NAME})(?::(?P<version>{VERSION})|@(?P<alias>{ALIAS}))?")
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://")


@dataclass(frozen=True)
class Named:
    """What a caller named: a model, and which of its versions."""

    name: str
    """Or its id."""
    version: str | None = None
    alias: str | None = None
    """The newest version where neither is named."""


def is_reference(text: str) -> bool:
    """Whether ``text`` names a place rather than a registered model: behind the name of a source, or as an address of
    one that is not enabled here."""
    scheme, colon, _ = text.partition(":")
    return bool(colon) and (scheme in SOURCES or ADDRESS.match(text) is not None)


def read_named(text: str) -> Named | None:
    """The registered model that ``text`` names; None where no model can be named so."""
    found = NAMED.fullmatch(text)
    if found is None or len(found["name"]) > MOST_NAME:
        return None
    return Named(found["name"], found["version"], found["alias"])


def check_name(name: str) -> str:
    """``name``, which is of the form of names; raises ValueError where it would be read as something else."""
    if name in SOURCES:
        raise ValueError(f"{name} is a source of models, as in {name}:..., and no name")
    _, slash, second = name.partition("/")
    if slash and second in OF_ROUTES:
        raise ValueError(f"a name does not end with /{second}, under which stand the {second} of a model")
    return name
