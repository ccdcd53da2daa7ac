"""``spinal trace`` and ``spinal compare``: the engine in this process, no server."""

import sys
from typing import Any

from spinal.cli.progress import bar
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.errors import ProfileInvalid
from spinal.local import Machine, compare_here, trace_here
from spinal.sides import Places


def read_knobs(options: dict[str, Any]) -> dict[str, Any]:
    """The knobs that were given on the command line; raises ProfileInvalid."""
    given = {name: value for name, value in options.items() if value is not None}
    if "lens_positions" in given and given["lens_positions"] != "full":
        try:
            given["lens_positions"] = int(given["lens_positions"])
        except ValueError:
            raise ProfileInvalid(
                f"lens_positions: {given['lens_positions']!r} is neither a number nor 'full'", hint="for example 16"
            ) from None
    return given


def local_trace(
    model: str,
    prompts: str,
    knobs: dict[str, Any],
    *,
    places: Places,
    device: str,
    threads: int | None,
    stream: bool,
    cache: bool,
) -> Trace:
    """The trace of one checkpoint, with a bar for whoever watches."""
    return trace_here(model, prompts, read_knobs(knobs), _machine(device, threads, stream, cache), places)


def local_compare(
    reference: str,
    candidate: str,
    prompts: str | None,
    knobs: dict[str, Any],
    *,
    control: str | None,
    places: Places,
    device: str,
    threads: int | None,
    stream: bool,
    cache: bool,
) -> Comparison:
    """The comparison of two checkpoints or stored traces, with a bar for each piece of work."""
    machine = _machine(device, threads, stream, cache)
    return compare_here(reference, candidate, prompts, read_knobs(knobs), machine, control=control, places=places)


def _machine(device: str, threads: int | None, stream: bool, cache: bool) -> Machine:
    command = ["spinal", *sys.argv[1:]]
    return Machine(device=device, threads=threads, stream=stream, cache=cache, watch=bar, command=command)
