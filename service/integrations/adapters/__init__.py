"""How each kind of registry signs and words its events, one module each; ``service/registries.py`` lists them."""

from importlib import import_module
from typing import cast

from service.integrations.adapters.base import Adapter
from service.registries import KINDS


def adapter_of(kind: str) -> Adapter:
    """The adapter of a kind of registry."""
    module, _, name = KINDS[kind].adapter.partition(":")
    return cast(Adapter, getattr(import_module(module), name))
