"""From lens values and spectra to the trace's layers and the capture. Plain numpy."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from spinal.documents.capture import Capture, PositionsCapture
from spinal.documents.trace import POSITIONS, WINDOWS, LayerTrace, PositionTrace, WindowFit
from spinal.engine.contraction import NodeSpectrum
from spinal.engine.tokens import GatheredRows
from spinal.engine.transport import LensResult
from spinal.profile import MeasurementProfile

Array = npt.NDArray[np.float64]


def prompt_means(values: Array, gathered: GatheredRows, positions: str) -> Array:
    """(S, K) values at the gathered rows -> (P, S) means inside each prompt over the rows of ``positions``, which are
    ``last`` or ``all``. Values keep their unit.

    Examples
    --------
    >>> from spinal.engine.tokens import lens_rows
    >>> rows = lens_rows(((5, 6, 7), (5, 6)), 16)  # positions 1 and 2 of the first prompt, 1 of the second
    >>> prompt_means(np.array([[1.0, 3.0, 5.0]]), rows, "all").tolist()
    [[2.0], [5.0]]
    >>> prompt_means(np.array([[1.0, 3.0, 5.0]]), rows, "last").tolist()
    [[3.0], [5.0]]
    """
    mine = gathered.is_last if positions == "last" else gathered.in_all
    owner = gathered.prompt[mine]
    counts = np.bincount(owner, minlength=gathered.prompts)
    sums = np.stack([np.bincount(owner, weights=row[mine], minlength=gathered.prompts) for row in values])
    return np.asarray((sums / counts).T)


def step_means(steps: Array, gathered: GatheredRows, positions: str) -> Array:
    """(D, K) lengths of the steps into nodes 1..D -> (P, N) means inside each prompt, at the node of arrival; node 0,
    into which no step leads, is NaN."""
    return np.concatenate([np.full((gathered.prompts, 1), np.nan), prompt_means(steps, gathered, positions)], axis=1)


def build_capture(
    digest: str,
    gathered: GatheredRows,
    lens: LensResult,
    spectra: dict[str, list[NodeSpectrum]],
    nll: dict[int, float] | None,
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> Capture:
    """The capture behind the trace ``digest``. The last pair of ``lens`` is (node 0, node D), the others are the
    steps; ``spectra`` hold one member for each node, by positions; ``nll`` is that of continuations by prompt, None
    where the set has none: the lens's own targets then stand in; ``beside`` are the capture's members that not every
    profile keeps."""
    parts = {positions: _positions_capture(gathered, lens, spectra[positions], positions) for positions in POSITIONS}
    ends = prompt_means(lens.distance[-1:], gathered, "all")[:, 0]
    path = parts["all"].transport[:, 1:].sum(axis=1)
    nll_values, nll_prompts = _nll(nll, gathered, lens)
    return Capture(
        trace_digest=digest,
        last=parts["last"],
        all=parts["all"],
        nll=nll_values,
        nll_prompts=nll_prompts,
        directness=np.divide(ends, path, out=np.full(path.size, np.nan), where=path > 0),
        row_prompt=gathered.prompt.astype(np.int64),
        row_is_last=gathered.is_last,
        row_in_all=gathered.in_all,
        **beside,
    )


def _positions_capture(
    gathered: GatheredRows, lens: LensResult, spectra: list[NodeSpectrum], positions: str
) -> PositionsCapture:
    alpha = np.array([[_or_nan(node.fits[window].alpha) for node in spectra] for window in WINDOWS])
    return PositionsCapture(
        transport=step_means(lens.distance[:-1], gathered, positions),
        entropy=prompt_means(lens.entropy, gathered, positions),
        alpha=alpha,
        replicates=np.stack([node.replicates for node in spectra], axis=1),
        replicate_kind=spectra[0].kind,
        effective_rank=np.array([_or_nan(node.effective_rank) for node in spectra]),
    )


def _nll(nll: dict[int, float] | None, gathered: GatheredRows, lens: LensResult) -> tuple[Array, npt.NDArray[np.int64]]:
    if nll is not None:
        return np.array(list(nll.values())), np.array(list(nll), dtype=np.int64)
    if lens.target_nll is None:
        raise AssertionError("the trace's lens is read with targets")
    known = np.isfinite(lens.target_nll)
    owner = gathered.prompt[known]
    counts = np.bincount(owner, minlength=gathered.prompts)
    sums = np.bincount(owner, weights=lens.target_nll[known], minlength=gathered.prompts)
    having = np.flatnonzero(counts)
    return sums[having] / counts[having], having.astype(np.int64)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def build_layers(
    lens: LensResult,
    spectra: dict[str, list[NodeSpectrum]],
    gathered: GatheredRows,
    capture: Capture,
    profile: MeasurementProfile,
) -> tuple[LayerTrace, ...]:
    """One LayerTrace per node 0..D. ``spectra`` hold one member for each node, by positions; ``capture`` is the one
    that :func:`build_capture` made of the same ``lens``; ``profile`` says which window is the default."""
    agreement = (lens.argmax == lens.argmax[-1]).astype(np.float64)
    companions = {
        positions: (
            prompt_means(lens.max_probability, gathered, positions),
            prompt_means(agreement, gathered, positions),
        )
        for positions in POSITIONS
    }
    depth = len(spectra["all"]) - 1
    return tuple(
        LayerTrace(
            layer=node,
            depth=node / depth,
            positions={
                positions: _position(node, positions, spectra[positions][node], capture, companions[positions], profile)
                for positions in POSITIONS
            },
        )
        for node in range(depth + 1)
    )


def _position(
    node: int,
    positions: str,
    spectrum: NodeSpectrum,
    capture: Capture,
    companions: tuple[Array, Array],
    profile: MeasurementProfile,
) -> PositionTrace:
    values = capture.at(positions)
    window = profile.window_for(positions)
    fit = spectrum.fits[window]
    half = spectrum.half_sample[WINDOWS.index(window)]
    transport = values.transport[:, node]
    return PositionTrace(
        contraction=fit.alpha,
        contraction_se=spectrum.se(window),
        contraction_windows={
            name: WindowFit(
                alpha=one.alpha,
                alpha_se=spectrum.se(name),
                curvature=one.curvature,
                curved=one.curved,
                k_min=one.k_min,
                k_max=one.k_max,
                reason=one.reason,
            )
            for name, one in spectrum.fits.items()
        },
        contraction_reason=fit.reason,
        contraction_half_sample=float(half) if np.isfinite(half) else None,
        underdetermined=spectrum.rows < 2 * spectrum.dimensions,
        rows=spectrum.rows,
        rank=spectrum.rank,
        transport=float(transport.mean()) if node else None,
        transport_se=_se(transport) if node else None,
        transport_reason=None if node else "no_step_into_node_0",
        entropy=float(values.entropy[:, node].mean()),
        entropy_se=_se(values.entropy[:, node]),
        max_probability=float(companions[0][:, node].mean()),
        argmax_agreement=float(companions[1][:, node].mean()),
        effective_rank=spectrum.effective_rank,
        participation_ratio=spectrum.participation_ratio,
        top_share=spectrum.top_share,
    )


def _se(values: Array) -> float | None:
    """Standard error of a mean over prompts; None for a single prompt."""
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else None
