"""Each side's own depth curves, out of its trace into the comparison: what a reader overlays."""

from collections.abc import Mapping
from typing import Literal

from spinal.documents.comparison import Curve, SideCurves
from spinal.documents.trace import Trace

Role = Literal["reference", "candidate", "control"]


def curves_of(traces: Mapping[Role, Trace | None]) -> dict[Role, SideCurves]:
    """The curves of the sides that are there, by role."""
    return {
        role: SideCurves(last=_curve(trace, "last"), all=_curve(trace, "all"))
        for role, trace in traces.items()
        if trace is not None
    }


def _curve(trace: Trace, positions: Literal["last", "all"]) -> Curve:
    nodes = [layer.positions[positions] for layer in trace.layers]
    return Curve(
        contraction=tuple(node.contraction for node in nodes),
        contraction_se=tuple(node.contraction_se for node in nodes),
        transport=tuple(node.transport for node in nodes),
        transport_se=tuple(node.transport_se for node in nodes),
    )
