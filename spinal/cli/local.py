"""``spinal trace`` and ``spinal compare``: the engine in this process, no server."""

import sys
from typing import Any

from spinal.cli.gate import Gate
from spinal.cli.progress import Watch
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.local import Machine, compare_here, trace_here
from spinal.sides import Places


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
    return trace_here(model, prompts, knobs, _machine(device, threads, stream, cache), places)


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
    gate: Gate,
) -> Comparison:
    """The comparison of two checkpoints or stored traces under the gate's policy, with a bar for each piece of work."""
    machine = _machine(device, threads, stream, cache)
    found = compare_here(reference, candidate, prompts, knobs, machine, control=control, places=places)
    return gate.judge(found)


def _machine(device: str, threads: int | None, stream: bool, cache: bool) -> Machine:
    command = ["spinal", *sys.argv[1:]]
    return Machine(
        device=device, threads=threads, stream=stream, cache=cache, watch=Watch(keeping=cache), command=command
    )
