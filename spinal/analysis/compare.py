"""Two traces and what a joint pass over the pair told -> one Comparison. Pure: no files, no clock, no torch."""

from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from spinal.analysis.comparable import check_comparable
from spinal.analysis.controls import control_null, noise_null
from spinal.analysis.damage import THRESHOLDS, assess
from spinal.analysis.frames import frame_of
from spinal.analysis.layers import Pair, layer_comparisons
from spinal.analysis.localization import terminal_window
from spinal.analysis.locators import DepthProfile, depth_profiles, place
from spinal.analysis.nulls import depth_null, self_null
from spinal.analysis.remarks import remarks
from spinal.analysis.scores import floor_values, score
from spinal.analysis.statements import statements
from spinal.analysis.uncertainty import draw_shares
from spinal.documents.base import Provenance
from spinal.documents.canonical import digest_of
from spinal.documents.capture import Capture
from spinal.documents.comparison import ComparisonContent, Frame, Null, Scores, SettingDifference, Side
from spinal.documents.editions import PRESENT, Edition
from spinal.documents.evidence import PairEvidence
from spinal.documents.trace import POSITIONS, Trace, stamp_profile
from spinal.errors import TracesNotComparable
from spinal.profile import MeasurementProfile

Array = npt.NDArray[np.float64]


def compare(
    reference: Trace,
    reference_capture: Capture,
    candidate: Trace,
    candidate_capture: Capture,
    evidence: PairEvidence,
    profile: MeasurementProfile,
    provenance: Provenance,
    *,
    control: tuple[Trace, Capture] | None = None,
    edition: Edition = PRESENT,
) -> ComparisonContent:
    """Everything known about the difference candidate - reference.

    ``profile`` must have the fingerprint of both traces; its comparison knobs (draws, seed, terminal
    fraction, weights) apply. ``control`` is a checkpoint that the caller names as one, measured like the candidate.
    Where ``evidence`` is absent, whatever rests on it is null with its reason, and the digest says so, too.
    ``edition`` is the one that the comparison is called by.
    Raises FingerprintMismatch or TracesNotComparable before anything is computed.
    """
    check_comparable(reference, candidate)
    if control is not None:
        check_comparable(reference, control[0])
        _check_capture(*control, profile)
    _check_belonging(reference, reference_capture, evidence, profile)
    _check_belonging(candidate, candidate_capture, evidence, profile)
    shares = draw_shares(reference.prompt_set.count, profile.bootstrap_draws, profile.seed)
    pair = Pair(
        reference=reference,
        candidate=candidate,
        reference_capture=reference_capture,
        candidate_capture=candidate_capture,
        evidence=evidence,
        profile=profile,
        shares=shares,
        swap_shares=_first_prompts(shares, evidence.block_swap.shape[0]),
        terminal=terminal_window(reference.model.n_layers, profile.terminal_fraction),
        edition=edition,
    )
    layers = layer_comparisons(pair)
    profiles = depth_profiles(pair)
    localization = place(profiles, pair.terminal)
    scores = score(pair, profiles)
    damage = assess(reference_capture, candidate_capture, evidence, candidate.non_finite, pair.terminal)
    nulls = _nulls(pair, profiles, scores, control)
    content = ComparisonContent(
        digest=comparison_digest(
            reference.digest,
            candidate.digest,
            profile,
            control[0].digest if control else None,
            without_evidence=evidence.absent,
            edition=edition,
        ),
        reference=_side(reference),
        candidate=_side(candidate),
        control=_side(control[0]) if control else None,
        fingerprint=profile.fingerprint_under(edition.scheme),
        profile={
            **stamp_profile(profile, edition),
            "comparison_fingerprint": profile.comparison_fingerprint_under(edition.scheme),
        },
        scorer_version=edition.scorer,
        identical=pair.identical,
        readout_moved=evidence.readout_moved,
        layers=layers,
        weight_change_other={k: float(v) for k, v in evidence.weight_change_other.items() if np.isfinite(v)},
        localization=localization,
        scores=scores,
        damage=damage,
        nulls=nulls,
        settings=tuple(SettingDifference(**asdict(difference)) for difference in evidence.settings),
        frame=_frame(pair),
        unchanged_blocks=_unchanged(evidence),
        warnings=remarks(pair, layers, localization, scores, damage, nulls, control[0] if control else None),
        provenance=provenance,
    )
    return content.model_copy(update={"statements": statements(content)})


def comparison_digest(
    reference_digest: str,
    candidate_digest: str,
    profile: MeasurementProfile,
    control_digest: str | None = None,
    *,
    without_evidence: str | None = None,
    edition: Edition = PRESENT,
) -> str:
    """Identity of a comparison: its traces, the scorer and every knob. One made ``without_evidence``, for that reason,
    is another comparison than the whole one."""
    return digest_of(
        ({} if without_evidence is None else {"without_evidence": without_evidence})
        | {
            "schema": "spinal.comparison/1",
            "reference": reference_digest,
            "candidate": candidate_digest,
            "control": control_digest,
            "fingerprint": profile.comparison_fingerprint_under(edition.scheme),
            "scorer": edition.scorer,
        },
        edition.scheme,
    )


def _side(trace: Trace) -> Side:
    return Side(digest=trace.digest, source=trace.model.source, weights_digest=trace.model.weights_digest)


def _frame(pair: Pair) -> Frame | None:
    """None where no joint pass was made."""
    if pair.evidence.absent is not None:
        return None
    return frame_of(
        pair.evidence,
        hidden_change=THRESHOLDS["hidden_change"][0],
        block_swap_mean=THRESHOLDS["block_swap_mean"][0],
    )


def _unchanged(evidence: PairEvidence) -> tuple[int, ...]:
    """Numbers from 1 of the blocks that are the same on both sides."""
    same = evidence.identical_blocks
    return () if same is None else tuple(int(index) + 1 for index in np.flatnonzero(same))


def _first_prompts(shares: Array, count: int) -> Array:
    """(B, Q) the same draws restricted to the swap prompts, so that what is built from both stays paired.
    A draw that holds none of them weighs them equally."""
    part = shares[:, :count]
    total = part.sum(axis=1, keepdims=True)
    return np.where(total > 0.0, part / np.where(total > 0.0, total, 1.0), 1.0 / count)


def _nulls(
    pair: Pair, profiles: dict[str, DepthProfile], scores: Scores, control: tuple[Trace, Capture] | None
) -> dict[str, Null]:
    floor = floor_values(pair.reference_capture, pair.profile, pair.terminal)
    nulls = {
        "self": self_null(floor, scores.delta_align),
        "depth": depth_null(profiles["block_swap"].weights, pair.terminal),
    }
    if pair.evidence.noise:
        nulls["matched_noise"] = noise_null(pair, scores.delta_align)
    elif pair.evidence.absent is not None and pair.profile.noise_draws:
        nulls["matched_noise"] = Null(
            statistic="|delta_align|",
            values=(),
            observed=None,
            percentile=None,
            note=f"not drawn: {pair.evidence.absent.replace('_', ' ')}",
        )
    if control is not None:
        nulls["control"] = control_null(pair, control[1], control[0].model.source)
    return nulls


def _check_belonging(trace: Trace, capture: Capture, evidence: PairEvidence, profile: MeasurementProfile) -> None:
    """Refuse captures, evidence or a profile that belong to other traces: their arrays might still add up."""
    _check_capture(trace, capture, profile)
    prompts, nodes = trace.prompt_set.count, trace.model.n_layers + 1
    swapped = evidence.block_swap.shape[0]
    checks: list[tuple[str, object, object]] = [
        ("block_swap", evidence.block_swap.shape, (max(1, min(swapped, prompts)), nodes - 1)),
        ("block_swap_transport", evidence.block_swap_transport.shape, (swapped, nodes - 1)),
        ("weight_change", evidence.weight_change.shape, (nodes - 1,)),
    ]
    for positions in POSITIONS:
        checks += [
            (f"function_gap ({positions})", evidence.function_gap[positions].shape, (prompts, nodes)),
            (f"hidden_change ({positions})", evidence.hidden_change[positions].shape, (prompts, nodes)),
        ]
    checks += [(f"noise draw {i}", draw.transport.shape, (prompts, nodes)) for i, draw in enumerate(evidence.noise)]
    _require_equal(checks)


def _check_capture(trace: Trace, capture: Capture, profile: MeasurementProfile) -> None:
    shape = (trace.prompt_set.count, trace.model.n_layers + 1)
    _require_equal(
        [
            ("profile fingerprint", profile.fingerprint, trace.measurement_profile().fingerprint),
            (f"capture of {trace.model.source}", capture.trace_digest, trace.digest),
            *((f"transport ({positions})", capture.at(positions).transport.shape, shape) for positions in POSITIONS),
        ]
    )


def _require_equal(checks: list[tuple[str, object, object]]) -> None:
    for what, found, expected in checks:
        if found != expected:
            raise TracesNotComparable(
                f"{what} does not belong to this pair: {found} where {expected} was expected",
                hint="trace both checkpoints and gather the evidence again with one profile",
            )
