"""Contraction of one node: the spectrum of its rows, the fits of alpha and their replicates.

Formulas: ``docs/method.md`` ("Contraction alpha"); replicates and their error: ``docs/method.md`` ("Uncertainty").
Singular values come from the float64 Gram matrix of the smaller side of the column-centred rows. Uncertainty is an
infinitesimal jackknife over prompts: one extra pass over the rows where they outnumber the dimensions, and none
otherwise, since the eigenvectors of their inner products hold it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from spinal.analysis import contraction as fits
from spinal.documents.capture import ReplicateKind
from spinal.documents.editions import PRESENT, Edition
from spinal.documents.trace import WINDOWS
from spinal.profile import MeasurementProfile

Tensor = torch.Tensor
Array = npt.NDArray[np.float64]
SPLIT_SEED = 20260106
"""Fixed seed of prompt halves and groups: the same prompts always fall into the same group."""
CHUNK_ROWS = 1024
FLOAT32_SPREAD = 1e4
"""Up to this sigma_1 / sigma_k a float32 projection on v_k is good to about a thousandth: enough for an error bar."""
BLENDED_SINCE = 5
"""Since which edition influences blend directions that the rows cannot tell apart."""
CONSTANT = 1e-12
"""Centred energy below this share of the raw energy is rounding: the node does not vary."""


@dataclass(frozen=True, eq=False)
class NodeSpectrum:
    """Contraction of one node at one choice of positions. W = 4 windows in ``WINDOWS`` order, R replicates."""

    rows: int
    """n, the rows of all prompts."""
    dimensions: int
    """d, the width of the residual stream."""
    rank: int
    """Numerical rank r, 0 where the node does not vary."""
    fits: dict[str, fits.Fit]
    """By window."""
    half_sample: Array
    """(W,) alpha from a random half of the prompts minus alpha from all."""
    replicates: Array
    """(W, R) of ``kind``: the influence of each prompt on alpha (R = P), or alpha without each group of prompts."""
    kind: ReplicateKind
    effective_rank: float | None
    """exp of the entropy of sigma / sum sigma, in 1..r; None where the node does not vary."""
    participation_ratio: float | None
    """(sum sigma^2)^2 / sum sigma^4, in 1..r."""
    top_share: float | None
    """sigma_1 / sum sigma, in 0..1."""

    def se(self, window: str) -> float | None:
        """Standard error of alpha in a window; None where a replicate has no alpha, or one prompt is all there is."""
        values = self.replicates[WINDOWS.index(window)]
        found = float(fits.influence_se(values) if self.kind == "influence" else fits.grouped_se(values))
        return found if np.isfinite(found) else None


@dataclass(frozen=True, eq=False)
class PromptSplit:
    """Which prompts form the random half, and which group each prompt belongs to."""

    half: Tensor
    """(P,) bool"""
    group: Tensor
    """(P,) in 0..groups-1"""
    groups: int


def split_prompts(count: int, groups: int) -> PromptSplit:
    """Half and ``groups`` groups of ``count`` prompts, the same ones each time.

    Examples
    --------
    >>> split = split_prompts(8, 4)
    >>> int(split.half.sum()), split.group.bincount().tolist()
    (4, [2, 2, 2, 2])
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    half = np.zeros(count, dtype=bool)
    half[order[: max(1, count // 2)]] = True
    group = np.empty(count, dtype=np.int64)
    group[order] = np.arange(count) % groups
    return PromptSplit(torch.from_numpy(half), torch.from_numpy(group), groups)


def node_spectrum(
    rows: Tensor,
    prompt: Tensor,
    prompts: int,
    split: PromptSplit,
    profile: MeasurementProfile,
    edition: Edition = PRESENT,
) -> NodeSpectrum:
    """Spectrum of ``rows`` (n, d) of residuals, row i belonging to prompt ``prompt[i]`` (n,) of ``prompts``.

    ``split`` is :func:`split_prompts` of them; of ``profile``, ``rank_tolerance`` and ``min_window_ranks`` count.
    Before engine 4 (``edition``) influences were not blended, and rows that do not outnumber the dimensions had a
    delete-group jackknife.

    Examples
    --------
    Rows whose singular values fall as k^-0.7, each prompt with ten of them:

    >>> from spinal.profile import MeasurementProfile
    >>> rows = torch.randn(400, 32, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 33) ** -0.7
    >>> found = node_spectrum(
    ...     rows, torch.arange(400) // 10, 40, split_prompts(40, 16), MeasurementProfile(min_window_ranks=4)
    ... )
    >>> found.rank, found.kind, found.replicates.shape
    (32, 'influence', (4, 40))
    >>> 0.6 < found.fits["body"].alpha < 0.9
    True
    """
    count, dimensions = rows.shape
    blended = edition.since >= BLENDED_SINCE
    kind: ReplicateKind = "influence" if blended or count > dimensions else "groups"
    mean = _mean(rows)
    chosen = split.half.to(rows.device)[prompt]
    gram, half = _both_grams(rows, mean, chosen)
    if not _varies(gram, mean, count):
        return _constant(count, dimensions, prompts if kind == "influence" else split.groups, kind)
    if kind == "influence":
        eigenvalues, vectors = torch.linalg.eigh(gram)
        sigma = _sigma(eigenvalues)
        fitted = _fit(sigma, count, profile)
        if count > dimensions:
            energies = _energies(rows, mean, vectors.flip(1), prompt, prompts, exact=_needs_float64(sigma, fitted))
            half_alphas = _half_alphas(half, rows, mean, chosen, profile)
        else:
            energies = _inner_energies(eigenvalues.flip(0), vectors.flip(1), prompt, prompts)
            half_alphas = _inner_alphas(gram, chosen, profile)
        told_apart = count if blended else None
        replicates = np.stack([fits.alpha_influence(energies, sigma**2, fitted[w], rows=told_apart) for w in WINDOWS])
    else:
        sigma = _sigma(torch.linalg.eigvalsh(gram))
        fitted = _fit(sigma, count, profile)
        owner = split.group.to(rows.device)[prompt]
        left_out = [_inner_alphas(gram, owner != g, profile) for g in range(split.groups)]
        replicates = np.stack(left_out, axis=1)
        half_alphas = _inner_alphas(gram, chosen, profile)
    rank = fits.numerical_rank(sigma, count, profile.rank_tolerance)
    return NodeSpectrum(
        count,
        dimensions,
        rank,
        fitted,
        half_alphas - _alphas(fitted),
        replicates,
        kind,
        fits.effective_rank(sigma[: max(rank, 1)]),
        fits.participation_ratio(sigma[: max(rank, 1)]),
        fits.top_share(sigma[: max(rank, 1)]),
    )


def window_alphas(rows: Tensor, profile: MeasurementProfile) -> Array:
    """(W,) alpha of rows (n, d) without error bars, windows in ``WINDOWS`` order; NaN where a window has none."""
    if rows.shape[0] < 2:
        return np.full(len(WINDOWS), np.nan)
    nobody = torch.zeros(rows.shape[0], dtype=torch.bool, device=rows.device)
    mean = _mean(rows)
    gram, _ = _both_grams(rows, mean, nobody)
    if not _varies(gram, mean, rows.shape[0]):
        return np.full(len(WINDOWS), np.nan)
    return _alphas(_fit(_sigma(torch.linalg.eigvalsh(gram)), rows.shape[0], profile))


def _constant(count: int, dimensions: int, replicates: int, kind: ReplicateKind) -> NodeSpectrum:
    nothing = fits.fit_windows(np.zeros(1), 0, min_ranks=3)
    width = len(WINDOWS)
    return NodeSpectrum(
        count,
        dimensions,
        0,
        nothing,
        np.full(width, np.nan),
        np.full((width, replicates), np.nan),
        kind,
        None,
        None,
        None,
    )


def _mean(rows: Tensor) -> Tensor:
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[0], CHUNK_ROWS):
        total += rows[start : start + CHUNK_ROWS].double().sum(0)
    return total / rows.shape[0]


def _both_grams(rows: Tensor, mean: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Float64 Gram matrix of the centred rows, and the part of it that the ``chosen`` rows (n,) contribute.

    The smaller side: (d, d) sums over rows where rows outnumber dimensions, both parts in one pass; else (n, n) inner
    products, of which any subset of rows has its own block (the second result is then the whole).
    """
    count, dimensions = rows.shape
    if count <= dimensions:
        centred = rows.double() - mean
        inner = centred @ centred.T
        return inner, inner
    parts = torch.zeros(2, dimensions, dimensions, dtype=torch.float64, device=rows.device)
    for start in range(0, count, CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS].double() - mean
        mine = chosen[start : start + CHUNK_ROWS]
        for part, members in zip(parts, (chunk[mine], chunk[~mine]), strict=True):
            if members.shape[0]:
                part.addmm_(members.T, members)
    return parts[0] + parts[1], parts[0]


def _varies(gram: Tensor, mean: Tensor, count: int) -> bool:
    """Whether the centred energy is more than the rounding of the raw one, which is it plus n |mean|^2."""
    centred = float(gram.diagonal().sum())
    return centred > CONSTANT * (centred + count * float(mean.square().sum()))


def _sigma(eigenvalues: Tensor) -> Array:
    """Singular values, descending, from ascending eigenvalues of a Gram matrix."""
    return eigenvalues.flip(0).clamp(min=0.0).sqrt().cpu().numpy()


def _fit(sigma: Array, count: int, profile: MeasurementProfile) -> dict[str, fits.Fit]:
    rank = fits.numerical_rank(sigma, count, profile.rank_tolerance)
    return fits.fit_windows(sigma, rank, min_ranks=profile.min_window_ranks)


def _alphas(fitted: dict[str, fits.Fit]) -> Array:
    found = [fitted[window].alpha for window in WINDOWS]
    return np.array([np.nan if alpha is None else alpha for alpha in found], dtype=np.float64)


def _inner_alphas(inner: Tensor, keep: Tensor, profile: MeasurementProfile) -> Array:
    """(W,) alpha of a subset of rows, from the inner products of all: centring on the subset's own mean is taking row
    and column means off its block."""
    block = inner[keep][:, keep]
    if block.shape[0] < 2:
        return np.full(len(WINDOWS), np.nan)
    means = block.mean(0)
    block = block - means[None, :] - means[:, None] + means.mean()
    if not float(block.diagonal().sum()) > CONSTANT * float(inner.diagonal().sum()):
        return np.full(len(WINDOWS), np.nan)
    return _alphas(_fit(_sigma(torch.linalg.eigvalsh(block)), block.shape[0], profile))


def _half_alphas(half: Tensor, rows: Tensor, mean: Tensor, chosen: Tensor, profile: MeasurementProfile) -> Array:
    """(W,) alpha of the chosen rows, from their part ``half`` of the Gram matrix centred on ``mean``."""
    count = int(chosen.sum())
    if count <= rows.shape[1]:
        return window_alphas(rows[chosen], profile)
    # The half was centred on the mean of all: taking its own off is a rank-one correction.
    own = _mean(rows[chosen]) - mean
    return _alphas(_fit(_sigma(torch.linalg.eigvalsh(half - count * torch.outer(own, own))), count, profile))


def _needs_float64(sigma: Array, fitted: dict[str, fits.Fit]) -> bool:
    """Whether some fitted direction is so weak that a float32 projection on it would be noise."""
    weakest = max((fit.k_max for fit in fitted.values() if fit.alpha is not None), default=1)
    return bool(sigma[0] > FLOAT32_SPREAD * sigma[weakest - 1])


def _inner_energies(eigenvalues: Tensor, vectors: Tensor, prompt: Tensor, prompts: int) -> Array:
    """(P, n): per prompt the summed squared projections of its centred rows on the directions of their spectrum, from
    the eigenvalues (n,) and eigenvectors (n, n) of the rows' inner products, of which row i is one row's."""
    projected = vectors.square() * eigenvalues.clamp(min=0.0)
    energies = torch.zeros(prompts, vectors.shape[1], dtype=projected.dtype, device=projected.device)
    return energies.index_add_(0, prompt, projected).cpu().numpy()


def _energies(rows: Tensor, mean: Tensor, vectors: Tensor, prompt: Tensor, prompts: int, *, exact: bool) -> Array:
    """(P, d): per prompt the summed squared projections of its centred rows on the eigenvectors."""
    dtype = torch.float64 if exact else torch.float32
    energies = torch.zeros(prompts, vectors.shape[1], dtype=torch.float64, device=rows.device)
    vectors = vectors.to(dtype)
    for start in range(0, rows.shape[0], CHUNK_ROWS):
        projected = (rows[start : start + CHUNK_ROWS].double() - mean).to(dtype) @ vectors
        here = torch.zeros(energies.shape, dtype=dtype, device=rows.device)
        energies += here.index_add_(0, prompt[start : start + CHUNK_ROWS], projected.square_())
    return energies.cpu().numpy()
