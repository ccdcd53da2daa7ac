"""What workers do, one module for each kind of run; ``service/runs/kinds.py`` says which function is whose."""

from collections.abc import Callable
from importlib import import_module
from typing import cast

from service.runs.kinds import UnknownKind, kind_named
from worker.job import Job

CarryOut = Callable[[Job], None]


def load_kind(name: str) -> CarryOut:
    """The function that carries out runs of the kind ``name``; raises UnknownKind where this worker has none."""
    module, _, function = kind_named(name).carry_out.partition(":")
    try:
        return cast(CarryOut, getattr(import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise UnknownKind(f"runs of kind {name!r} cannot be carried out here: {error}") from error
