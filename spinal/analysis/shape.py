"""Shape of a path over depth: coherence, turning, monotony, roughness."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def path_coherence(points: Array) -> Array:
    """Chord / arc of each path (B, K, dims), in (0, 1]; NaN with fewer than two points."""
    if points.shape[-2] < 2:
        return np.full(points.shape[:-2], np.nan)
    steps = np.diff(points, axis=-2)
    arc = np.linalg.norm(steps, axis=-1).sum(axis=-1)
    chord = np.linalg.norm(points[..., -1, :] - points[..., 0, :], axis=-1)
    # A straight path may come out an ulp above one.
    return np.minimum(np.where(arc > 0.0, chord / np.where(arc > 0.0, arc, 1.0), np.nan), 1.0)


def turning_angle(points: Array) -> float:
    """Mean angle (radians, 0..pi) between consecutive segments of a path (K, dims); NaN below three points."""
    if points.shape[0] < 3 or not np.isfinite(points).all():
        return float("nan")
    steps = np.diff(points, axis=0)
    unit = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    # arctan2 of half-angle norms keeps tiny angles that arccos of a dot product rounds away.
    apart = np.linalg.norm(unit[1:] - unit[:-1], axis=1)
    along = np.linalg.norm(unit[1:] + unit[:-1], axis=1)
    return float(np.mean(2 * np.arctan2(apart, along)))


def kendall_tau(x: Array, y: Array) -> float:
    """Kendall's tau-b of two vectors (K,); NaN where one is constant, too short or not finite."""
    if x.size < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    pairs = np.triu_indices(x.size, 1)
    order_x = np.sign(x[pairs[1]] - x[pairs[0]])
    order_y = np.sign(y[pairs[1]] - y[pairs[0]])
    untied = np.count_nonzero(order_x) * np.count_nonzero(order_y)
    return float(np.dot(order_x, order_y) / np.sqrt(untied)) if untied else float("nan")


def entropy_roughness(entropy: Array) -> float:
    """Mean absolute second difference (nats) of an entropy path over depth (K,); NaN below three nodes."""
    if entropy.size < 3:
        return float("nan")
    return float(np.mean(np.abs(np.diff(entropy, n=2))))
