"""Two traces and what a joint pass over the pair told -> one Comparison. Pure: no files, no clock, no torch."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from spinal.analysis.belonging import check_accounts, check_belonging, check_capture
from spinal.analysis.by_prompt import by_prompt
from spinal.analysis.carried import what_carries
from spinal.analysis.comparable import check_comparable
from spinal.analysis.controls import control_null, noise_null
from spinal.analysis.curves import curves_of
from spinal.analysis.damage.limits import LIMITS
from spinal.analysis.damage.panel import assess
from spinal.analysis.frames import frame_of
from spinal.analysis.layers import Pair, layer_comparisons
from spinal.analysis.localization import terminal_window
from spinal.analysis.locators import DepthProfile, depth_profiles, place
from spinal.analysis.nulls import depth_null, halves_null, self_null
from spinal.analysis.prompt_changes import looked_at, prompt_changes
from spinal.analysis.remarks import remarks
from spinal.analysis.scores import delta_align_draws, floor_values, score
from spinal.analysis.statements import statements
from spinal.analysis.uncertainty import draw_shares, shares_of
from spinal.documents.base import Provenance
from spinal.documents.canonical import digest_of
from spinal.documents.capture import Capture
from spinal.documents.comparison import ComparisonContent, Frame, Null, Scores, SettingDifference, Side
from spinal.documents.editions import FORMER, PRESENT, Edition
from spinal.documents.evidence import AccountEvidence, PairEvidence
from spinal.documents.evidence import SettingDifference as Difference
from spinal.documents.trace import Trace, stamp_profile
from spinal.profile import MeasurementProfile

Array = npt.NDArray[np.float64]
PAIRED_FLOOR_SINCE = 5
"""Since which edition the floor of Delta_align is paired over prompts."""


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
    control_accounts: tuple[AccountEvidence, ...] | None = (),
    edition: Edition = PRESENT,
) -> ComparisonContent:
    """Everything known about the difference candidate - reference.

    ``profile`` must have the fingerprint of both traces; its comparison knobs (draws, seed, terminal
    fraction, weights) apply. ``control`` is a checkpoint that the caller names as one, measured like the candidate;
    ``control_accounts`` are what carries its own change from the reference, None where its checkpoint is not at hand.
    Where ``evidence`` is absent, whatever rests on it is null with its reason. What is absent, the digest says, too.
    ``edition`` is the one that the comparison is called by.
    Raises FingerprintMismatch or TracesNotComparable before anything is computed.
    """
    check_comparable(reference, candidate)
    if control is not None:
        check_comparable(reference, control[0])
        check_capture(*control, profile)
    check_belonging(reference, reference_capture, evidence, profile)
    check_belonging(candidate, candidate_capture, evidence, profile)
    check_accounts(reference, (*evidence.accounts, *evidence.noise_accounts, *(control_accounts or ())))
    shares = draw_shares(reference.prompt_set.count, profile.bootstrap_draws, profile.seed)
    pair = Pair(
        reference=reference,
        candidate=candidate,
        reference_capture=reference_capture,
        candidate_capture=candidate_capture,
        evidence=evidence,
        profile=profile,
        shares=shares,
        swap_shares=shares_of(shares, _swap_prompts(evidence)),
        terminal=terminal_window(reference.model.n_layers, profile.terminal_fraction),
        edition=edition,
    )
    content = _content(pair, provenance, control, control_accounts)
    return content.model_copy(update={"statements": statements(content)})


def _content(
    pair: Pair,
    provenance: Provenance,
    control: tuple[Trace, Capture] | None,
    control_accounts: tuple[AccountEvidence, ...] | None,
) -> ComparisonContent:
    """All but the statements, which are made from it."""
    reference, candidate, evidence, edition = pair.reference, pair.candidate, pair.evidence, pair.edition
    layers = layer_comparisons(pair)
    frame = _frame(pair)
    profiles = depth_profiles(pair, frame)
    localization = place(profiles, pair.terminal, edition)
    scores = score(pair, profiles)
    nulls = _nulls(pair, profiles, scores, control)
    carried = what_carries(pair, control_accounts or (), frame)
    damage = assess(
        pair.reference_capture,
        pair.candidate_capture,
        evidence,
        candidate.non_finite,
        pair.terminal,
        frame=frame,
        accounts=carried.accounts,
    )
    return ComparisonContent(
        digest=comparison_digest(
            reference.digest,
            candidate.digest,
            pair.profile,
            control[0].digest if control else None,
            without_evidence=evidence.absent,
            without_control_accounts=control_accounts is None,
            settings=evidence.settings,
            edition=edition,
        ),
        reference=_side(reference),
        candidate=_side(candidate),
        control=_side(control[0]) if control else None,
        fingerprint=pair.profile.fingerprint_under(edition.scheme),
        profile={
            **stamp_profile(pair.profile, edition),
            "comparison_fingerprint": pair.profile.comparison_fingerprint_under(edition.scheme),
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
        prompt_changes=prompt_changes(pair),
        looked_at=looked_at(pair),
        by_prompt=by_prompt(pair),
        curves=curves_of({"reference": reference, "candidate": candidate, "control": control[0] if control else None}),
        accounts=carried.accounts,
        control_accounts=carried.control,
        noise_accounts=carried.noise,
        account_contrasts=carried.contrasts,
        settings=tuple(SettingDifference(**asdict(difference)) for difference in evidence.settings),
        frame=frame,
        unchanged_blocks=_unchanged(evidence),
        warnings=remarks(pair, layers, localization, scores, damage, nulls, carried, control[0] if control else None),
        provenance=provenance,
    )


def comparison_digest(
    reference_digest: str,
    candidate_digest: str,
    profile: MeasurementProfile,
    control_digest: str | None = None,
    *,
    without_evidence: str | None = None,
    without_control_accounts: bool = False,
    settings: Sequence[Difference] = (),
    edition: Edition = PRESENT,
) -> str:
    """Identity of a comparison: its traces, the scorer and every knob. One made ``without_evidence``, for that reason,
    or ``without_control_accounts`` is another comparison than the whole one. Of the ``settings`` on which both sides
    differ, those enter that their weights digests do not hold: the same weights may lie beside other ones elsewhere."""
    beside = [asdict(each) for each in settings if each.part != "configuration" and edition != FORMER]
    return digest_of(
        ({} if without_evidence is None else {"without_evidence": without_evidence})
        | ({"without_control_accounts": True} if without_control_accounts else {})
        | ({"settings": beside} if beside else {})
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


def _swap_prompts(evidence: PairEvidence) -> npt.NDArray[np.int64]:
    """(Q,) which prompts of the set were swapped."""
    return np.arange(evidence.block_swap.shape[0]) if evidence.swap_prompts is None else evidence.swap_prompts


def _frame(pair: Pair) -> Frame | None:
    """None where no joint pass was made."""
    if pair.evidence.absent is not None:
        return None
    return frame_of(
        pair.evidence,
        hidden_change=LIMITS["hidden_change"].watch,
        block_swap_mean=LIMITS["block_swap_mean"].watch,
    )


def _unchanged(evidence: PairEvidence) -> tuple[int, ...]:
    """Numbers from 1 of the blocks that are the same on both sides."""
    same = evidence.identical_blocks
    return () if same is None else tuple(int(index) + 1 for index in np.flatnonzero(same))


def _nulls(
    pair: Pair, profiles: dict[str, DepthProfile], scores: Scores, control: tuple[Trace, Capture] | None
) -> dict[str, Null]:
    if pair.edition.since >= PAIRED_FLOOR_SINCE:
        floor = self_null(delta_align_draws(pair), scores.delta_align)
    else:
        halves = floor_values(pair.reference_capture, pair.profile, pair.terminal)
        floor = halves_null(halves, scores.delta_align)
    nulls = {
        "self": floor,
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
