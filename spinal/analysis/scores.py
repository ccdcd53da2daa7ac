"""Strength of the signature over the terminal window T (``docs/method.md`` section 5)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinal.analysis.uncertainty import MDE_FACTOR, percentile_interval
from spinal.comparison import Scores
from spinal.profile import MeasurementProfile

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """One checkpoint's curve over T. ``*_draws`` are (draws, |T|) resampled versions."""

    alpha: Array
    transport: Array
    entropy: Array
    alpha_draws: Array
    transport_draws: Array
    directness: float | None


def coherence(depth: Array, alpha: Array, transport: Array, alpha_scale: Array, transport_scale: Array) -> Array:
    """Chord / arc of the curve (l/D, alpha/scale, L/scale) over T, in (0, 1]; (M, |T|) curves -> (M,)."""
    points = np.stack(
        [np.broadcast_to(depth, alpha.shape), alpha / alpha_scale[:, None], transport / transport_scale[:, None]],
        axis=-1,
    )
    arc = np.linalg.norm(np.diff(points, axis=1), axis=-1).sum(axis=1)
    chord = np.linalg.norm(points[:, -1] - points[:, 0], axis=-1)
    return np.asarray(np.where(arc > 0.0, chord / np.where(arc > 0.0, arc, 1.0), np.nan))


def turning_angle(
    depth: Array, alpha: Array, transport: Array, alpha_scale: float, transport_scale: float
) -> float | None:
    """Mean angle (radians) between successive segments of the scaled curve; None for fewer than two segments."""
    steps = np.diff(np.stack([depth, alpha / alpha_scale, transport / transport_scale], axis=-1), axis=0)
    if steps.shape[0] < 2:
        return None
    unit = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    return float(np.arccos(np.clip((unit[1:] * unit[:-1]).sum(axis=1), -1.0, 1.0)).mean())


def kendall_tau(values: Array) -> float | None:
    """Kendall's tau-a of values against their order; None for fewer than two."""
    count = values.size
    if count < 2:
        return None
    signs = np.sign(values[None, :] - values[:, None])[np.triu_indices(count, 1)]
    return float(signs.sum() / (count * (count - 1) / 2))


def roughness(entropy: Array) -> float | None:
    """Mean absolute second difference of the entropy path, nats; None for fewer than three nodes."""
    return float(np.abs(np.diff(entropy, n=2)).mean()) if entropy.size > 2 else None


def score(
    reference: Curve,
    candidate: Curve,
    footprint: tuple[float | None, Array | None],
    depth: Array,
    profile: MeasurementProfile,
    terminal: tuple[int, int],
    *,
    policy: str = "all",
) -> Scores:
    """All scores of a pair. ``depth`` (|T|,) is l/D; ``footprint`` is G and its draws. Where contraction is
    missing in T every score that needs it is null with a reason."""
    weights = {
        "delta_align": profile.weight_delta,
        "coherence": profile.weight_coherence,
        "footprint": profile.weight_footprint,
    }
    common = {"weights": weights, "policy": policy, "terminal_window": terminal}
    companions = _companions(reference, candidate, depth)
    if not (np.isfinite(reference.alpha).all() and np.isfinite(candidate.alpha).all()):
        why = "contraction is missing at a node of the terminal window"
        names = ("delta_align", "contraction_rise", "coherence", "coherence_reference", "spinal_score")
        fall = 1.0 - candidate.transport.mean() / reference.transport.mean()
        values: dict[str, float | None] = dict.fromkeys(names)
        return Scores(
            **values, transport_fall=float(fall), footprint=footprint[0], ci={}, mde={}, companions=companions,
            reasons=dict.fromkeys(names, why), **common,
        )  # fmt: skip
    drawn = _draws(reference, candidate, footprint[1], depth, weights)
    point = _point(reference, candidate, footprint[0], depth, weights)
    identical = all(abs(point[name] or 0.0) == 0.0 for name in ("contraction_rise", "transport_fall"))
    ci = {name: percentile_interval(values) for name, values in drawn.items() if np.isfinite(values).all()}
    mde = {name: MDE_FACTOR * float(drawn[name].std(ddof=1)) for name in ci if not identical}
    reasons = {} if footprint[0] is not None else dict.fromkeys(("footprint", "spinal_score"), "no detectable change")
    return Scores(**point, ci=ci, mde=mde, companions=companions, reasons=reasons, **common)


def _point(
    reference: Curve, candidate: Curve, footprint: float | None, depth: Array, weights: dict[str, float]
) -> dict[str, float | None]:
    flat = {
        name: float(value[0])
        for name, value in _formulas(
            reference.alpha[None], candidate.alpha[None], reference.transport[None], candidate.transport[None], depth
        ).items()
    }
    combined = None
    if footprint is not None:
        parts = {**flat, "footprint": footprint}
        combined = sum(weight * parts[name] for name, weight in weights.items())
    return {**flat, "footprint": footprint, "spinal_score": combined}


def _draws(
    reference: Curve, candidate: Curve, footprint: Array | None, depth: Array, weights: dict[str, float]
) -> dict[str, Array]:
    drawn = _formulas(
        reference.alpha_draws, candidate.alpha_draws, reference.transport_draws, candidate.transport_draws, depth
    )
    if footprint is None:
        return drawn
    drawn["footprint"] = footprint
    drawn["spinal_score"] = sum((weight * drawn[name] for name, weight in weights.items()), np.zeros_like(footprint))
    return drawn


def _formulas(ref_alpha: Array, cand_alpha: Array, ref_step: Array, cand_step: Array, depth: Array) -> dict[str, Array]:
    """A, B, Delta_align and S for (M, |T|) curves; the reference's scales serve both sides."""
    alpha_scale, step_scale = ref_alpha.mean(axis=1), ref_step.mean(axis=1)
    rise = cand_alpha.mean(axis=1) / alpha_scale - 1.0
    fall = 1.0 - cand_step.mean(axis=1) / step_scale
    return {
        "contraction_rise": rise,
        "transport_fall": fall,
        "delta_align": (rise + fall) / 2.0,
        "coherence": coherence(depth, cand_alpha, cand_step, alpha_scale, step_scale),
        "coherence_reference": coherence(depth, ref_alpha, ref_step, alpha_scale, step_scale),
    }


def _companions(reference: Curve, candidate: Curve, depth: Array) -> dict[str, float | None]:
    alpha_scale, step_scale = float(reference.alpha.mean()), float(reference.transport.mean())
    found: dict[str, float | None] = {}
    for side, curve in (("reference", reference), ("candidate", candidate)):
        usable = bool(np.isfinite(curve.alpha).all()) and np.isfinite(alpha_scale) and step_scale > 0.0
        found[f"turning_angle_{side}"] = (
            turning_angle(depth, curve.alpha, curve.transport, alpha_scale, step_scale) if usable else None
        )
        found[f"kendall_tau_contraction_{side}"] = kendall_tau(curve.alpha) if usable else None
        found[f"kendall_tau_transport_fall_{side}"] = kendall_tau(-curve.transport)
        found[f"entropy_roughness_{side}"] = roughness(curve.entropy)
        found[f"directness_{side}"] = curve.directness
    return found
