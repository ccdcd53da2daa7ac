"""Spectrum of one node's rows and the contraction fits with their replicates.

Singular values come from the float64 Gram matrix of the smaller side of the column-centred rows. With more
rows than dimensions the uncertainty is an infinitesimal jackknife over prompts (one extra pass over the rows);
otherwise a delete-group jackknife.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from spinal.analysis import spectrum as fits
from spinal.capture import ReplicateKind
from spinal.profile import MeasurementProfile
from spinal.trace import WINDOWS

Tensor = torch.Tensor
Array = npt.NDArray[np.float64]
SPLIT_SEED = 20260106
"""Fixed seed of prompt halves and groups: the same prompts always fall into the same group."""
CHUNK_ROWS = 8192
CONSTANT = 1e-12
"""Centred energy below this share of the raw energy is rounding: the node does not vary."""


@dataclass(frozen=True, eq=False)
class NodeSpectrum:
    """Contraction of one node under one policy. W = 4 windows in ``WINDOWS`` order."""

    rows: int
    dimensions: int
    rank: int
    fits: dict[str, fits.Fit]
    half_sample: Array
    """(W,) alpha from a random half of the prompts minus alpha from all."""
    replicates: Array
    """(W, R)"""
    kind: ReplicateKind
    effective_rank: float | None
    participation_ratio: float | None
    top_share: float | None

    def se(self, window: str) -> float | None:
        values = self.replicates[WINDOWS.index(window)]
        if not np.isfinite(values).all():
            return None
        return float(fits.influence_se(values) if self.kind == "influence" else fits.grouped_se(values))


@dataclass(frozen=True, eq=False)
class PromptSplit:
    """Which prompts form the random half, and which group each prompt belongs to."""

    half: Tensor
    group: Tensor
    groups: int


def split_prompts(count: int, groups: int) -> PromptSplit:
    """Deterministic half and groups of ``count`` prompts."""
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    half = np.zeros(count, dtype=bool)
    half[order[: max(1, count // 2)]] = True
    group = np.empty(count, dtype=np.int64)
    group[order] = np.arange(count) % groups
    return PromptSplit(torch.from_numpy(half), torch.from_numpy(group), groups)


def node_spectrum(
    rows: Tensor, prompt: Tensor, prompts: int, split: PromptSplit, profile: MeasurementProfile
) -> NodeSpectrum:
    """Spectrum of ``rows`` (n, d), row i belonging to prompt ``prompt[i]`` of ``prompts``."""
    count, dimensions = rows.shape
    kind: ReplicateKind = "influence" if count > dimensions else "groups"
    gram, mean = _gram(rows)
    if gram is None:
        return _constant(count, dimensions, prompts if kind == "influence" else split.groups, kind)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    values = eigenvalues.flip(0).clamp(min=0.0)
    sigma = values.sqrt().cpu().numpy()
    rank = fits.numerical_rank(sigma, count, profile.rank_tolerance)
    fitted = fits.fit_windows(sigma, rank, min_ranks=profile.min_window_ranks)
    if kind == "influence":
        energies = _energies(rows, mean, vectors.flip(1), prompt, prompts)
        replicates = np.stack([fits.alpha_influence(energies, values.cpu().numpy(), fitted[w]) for w in WINDOWS])
    else:
        left_out = [split.group[prompt] != g for g in range(split.groups)]
        replicates = np.stack([window_alphas(rows[keep], profile) for keep in left_out], axis=1)
    alphas = np.array([np.nan if fitted[w].alpha is None else fitted[w].alpha for w in WINDOWS], dtype=np.float64)
    return NodeSpectrum(
        count,
        dimensions,
        rank,
        fitted,
        window_alphas(rows[split.half[prompt]], profile) - alphas,
        replicates,
        kind,
        fits.effective_rank(sigma[: max(rank, 1)]),
        fits.participation_ratio(sigma[: max(rank, 1)]),
        fits.top_share(sigma[: max(rank, 1)]),
    )


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


def _gram(rows: Tensor) -> tuple[Tensor | None, Tensor]:
    """Float64 Gram of the smaller side of the centred rows (None where nothing varies), and the mean row."""
    count, dimensions = rows.shape
    mean = _mean(rows)
    if count <= dimensions:
        centred = rows.double() - mean
        gram = centred @ centred.T
        raw = float(rows.double().square().sum())
    else:
        gram = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=rows.device)
        raw = 0.0
        for start in range(0, count, CHUNK_ROWS):
            chunk = rows[start : start + CHUNK_ROWS].double()
            raw += float(chunk.square().sum())
            chunk = chunk - mean
            gram.addmm_(chunk.T, chunk)
    varies = float(gram.diagonal().sum()) > CONSTANT * raw
    return (gram if varies else None), mean


def _energies(rows: Tensor, mean: Tensor, vectors: Tensor, prompt: Tensor, prompts: int) -> Array:
    """(P, d): per prompt the summed squared projections of its centred rows on the eigenvectors."""
    energies = torch.zeros(prompts, vectors.shape[1], dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[0], CHUNK_ROWS):
        projected = (rows[start : start + CHUNK_ROWS].double() - mean) @ vectors
        energies.index_add_(0, prompt[start : start + CHUNK_ROWS], projected.square_())
    return energies.cpu().numpy()


def window_alphas(rows: Tensor, profile: MeasurementProfile) -> Array:
    """(W,) alpha of rows (n, d), windows in ``WINDOWS`` order; NaN where a window has none."""
    result = np.full(len(WINDOWS), np.nan)
    if rows.shape[0] < 2:
        return result
    gram, _ = _gram(rows)
    if gram is None:
        return result
    sigma = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0.0).sqrt().cpu().numpy()
    rank = fits.numerical_rank(sigma, rows.shape[0], profile.rank_tolerance)
    fitted = fits.fit_windows(sigma, rank, min_ranks=profile.min_window_ranks)
    for index, window in enumerate(WINDOWS):
        alpha = fitted[window].alpha
        result[index] = np.nan if alpha is None else alpha
    return result
