"""Two stored traces against each other, layer by layer: the document ``spinal.diff/1``. A pure function of the
two documents; intervals need the captures and stand in ``spinal.comparison/1``."""

from typing import Literal

from pydantic import ConfigDict, Field

from spinal.documents import Digest, Document, Finite
from spinal.errors import FingerprintMismatch, TracesNotComparable
from spinal.trace import POLICIES, WINDOWS, LayerTrace, PositionTrace, Trace


class PositionDiff(Document):
    """Candidate minus reference at one node under one policy; null where either side is null."""

    d_contraction: Finite | None
    d_contraction_windows: dict[Literal["bulk", "body", "wide", "tail"], Finite | None]
    window_agreement: bool | None
    """Whether the sign of d alpha is the same in all windows that have one; null with fewer than two."""
    d_transport: Finite | None
    d_entropy: Finite
    d_effective_rank: Finite | None


class LayerDiff(Document):
    layer: int
    depth: Finite
    positions: dict[Literal["last", "all"], PositionDiff]


class TraceDiff(Document):
    """Layer-wise differences of two traces, candidate minus reference."""

    schema_: Literal["spinal.diff/1"] = Field(default="spinal.diff/1", alias="schema")
    reference: Digest
    candidate: Digest
    fingerprint: Digest
    layers: tuple[LayerDiff, ...]

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


def check_comparable(reference: Trace, candidate: Trace) -> None:
    """Refuse traces that were not measured alike; raises FingerprintMismatch or TracesNotComparable."""
    if reference.fingerprint != candidate.fingerprint:
        knobs = reference.measurement_profile().differing_knobs(candidate.measurement_profile())
        raise FingerprintMismatch(
            f"profiles {reference.fingerprint[:12]} and {candidate.fingerprint[:12]} differ in: {', '.join(knobs)}",
            hint="trace both checkpoints under one profile",
            reference_fingerprint=reference.fingerprint,
            candidate_fingerprint=candidate.fingerprint,
            differing_knobs={knob: list(values) for knob, values in knobs.items()},
        )
    for what, ours, theirs in (
        ("prompt sets", reference.prompt_set.digest, candidate.prompt_set.digest),
        ("token ids", reference.prompt_set.token_ids_digest, candidate.prompt_set.token_ids_digest),
        ("engine versions", reference.engine.version, candidate.engine.version),
        ("dtypes", reference.engine.dtype, candidate.engine.dtype),
        ("numbers of layers", reference.model.n_layers, candidate.model.n_layers),
        ("hidden sizes", reference.model.hidden_size, candidate.model.hidden_size),
    ):
        if ours != theirs:
            raise TracesNotComparable(
                f"the traces have different {what}: {str(ours)[:12]} and {str(theirs)[:12]}",
                hint="trace both checkpoints on the same prompts with the same profile",
            )


def diff_traces(reference: Trace, candidate: Trace) -> TraceDiff:
    """Differences of two comparable traces; raises FingerprintMismatch or TracesNotComparable."""
    check_comparable(reference, candidate)
    return TraceDiff(
        reference=reference.digest,
        candidate=candidate.digest,
        fingerprint=reference.fingerprint,
        layers=tuple(_layer(ours, theirs) for ours, theirs in zip(reference.layers, candidate.layers, strict=True)),
    )


def sign_agreement(differences: list[float]) -> bool | None:
    """Whether all differences share one sign (zero agrees only with zero); None for fewer than two."""
    if len(differences) < 2:
        return None
    return len({(value > 0) - (value < 0) for value in differences}) == 1


def _layer(reference: LayerTrace, candidate: LayerTrace) -> LayerDiff:
    return LayerDiff(
        layer=reference.layer,
        depth=reference.depth,
        positions={policy: _position(reference.positions[policy], candidate.positions[policy]) for policy in POLICIES},
    )


def _position(reference: PositionTrace, candidate: PositionTrace) -> PositionDiff:
    windows = {
        name: _minus(candidate.contraction_windows[name].alpha, reference.contraction_windows[name].alpha)
        for name in WINDOWS
    }
    return PositionDiff(
        d_contraction=_minus(candidate.contraction, reference.contraction),
        d_contraction_windows=windows,
        window_agreement=sign_agreement([value for value in windows.values() if value is not None]),
        d_transport=_minus(candidate.transport, reference.transport),
        d_entropy=candidate.entropy - reference.entropy,
        d_effective_rank=_minus(candidate.effective_rank, reference.effective_rank),
    )


def _minus(candidate: float | None, reference: float | None) -> float | None:
    return None if candidate is None or reference is None else candidate - reference
