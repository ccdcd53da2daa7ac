"""Point differences of two trace documents: a pure function of both.

Intervals need the captures and stand in ``spinal.comparison/1``.
"""

import numpy as np

from spinal.analysis.comparable import check_comparable
from spinal.documents.diff import LayerDiff, PositionDiff, TraceDiff
from spinal.documents.trace import LayerTrace, PositionTrace, Trace

SIGNED = ("d_contraction", "d_transport", "d_entropy")


def diff_traces(reference: Trace, candidate: Trace) -> TraceDiff:
    """Differences of two trace documents; raises FingerprintMismatch or TracesNotComparable."""
    check_comparable(reference, candidate)
    return TraceDiff(
        reference=reference.digest,
        candidate=candidate.digest,
        fingerprint=reference.fingerprint,
        readout_moved=reference.model.readout_digest != candidate.model.readout_digest,
        layers=tuple(_layer(mine, theirs) for mine, theirs in zip(reference.layers, candidate.layers, strict=True)),
    )


def _layer(reference: LayerTrace, candidate: LayerTrace) -> LayerDiff:
    found = {name: _position(reference.positions[name], candidate.positions[name]) for name in reference.positions}
    return LayerDiff(
        layer=reference.layer,
        depth=reference.depth,
        positions=found,
        sign_disagreement=tuple(m for m in SIGNED if opposite(getattr(found["last"], m), getattr(found["all"], m))),
    )


def _position(reference: PositionTrace, candidate: PositionTrace) -> PositionDiff:
    windows = {
        name: _minus(candidate.contraction_windows[name].alpha, reference.contraction_windows[name].alpha)
        for name in reference.contraction_windows
    }
    d_contraction = _minus(candidate.contraction, reference.contraction)
    why = reference.contraction_reason or candidate.contraction_reason or "not_measured"
    return PositionDiff(
        d_contraction=d_contraction,
        d_contraction_windows=windows,
        window_agreement=same_sign([d for d in windows.values() if d is not None]),
        d_transport=_minus(candidate.transport, reference.transport),
        d_entropy=candidate.entropy - reference.entropy,
        d_effective_rank=_minus(candidate.effective_rank, reference.effective_rank),
        reason=None if d_contraction is not None else why,
    )


def _minus(candidate: float | None, reference: float | None) -> float | None:
    return None if candidate is None or reference is None else candidate - reference


def opposite(one: float | None, other: float | None) -> bool:
    """Whether two known values point in opposite directions."""
    return one is not None and other is not None and one * other < 0.0


def same_sign(values: list[float]) -> bool | None:
    """Whether all values share a sign (zero agrees only with zero); None with fewer than two."""
    return len({float(np.sign(value)) for value in values}) == 1 if len(values) > 1 else None
