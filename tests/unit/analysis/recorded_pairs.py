"""Pairs whose comparisons are on record (``recorded/``), and the command that records them:

``python -m tests.unit.analysis.recorded_pairs``. A comparison's digest names its numbers through the version of the
scorer (``spinal.documents.editions``): when a recorded number changes on purpose, raise that version and record again.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spinal.analysis.contraction import (
    alpha_influence,
    effective_rank,
    fit_windows,
    grouped_se,
    influence_se,
    numerical_rank,
    participation_ratio,
    singular_values_of_rows,
    top_share,
)
from spinal.analysis.diff import diff_traces
from spinal.documents.capture import Capture, PositionsCapture
from spinal.documents.evidence import NoiseDraw, PairEvidence, absent_evidence
from spinal.documents.trace import POSITIONS, WINDOWS, Trace
from spinal.profile import MeasurementProfile
from tests.support.fabricated import Pair, trace

FOLDER = Path(__file__).with_name("recorded")
DIGITS = 12


@dataclass(frozen=True)
class Sort:
    """What is special about a pair; the rest is random, and different in every number."""

    blocks: int = 5
    prompts: int = 24
    swapped: int = 12
    seed: int = 0
    kinds: tuple[str, str] = ("influence", "influence")
    """Kind of the replicates of reference and candidate at positions ``all``; at ``last`` the other way round."""
    change: float = 0.05
    """Size of what differs between the sides."""
    control: bool = False
    noise: int = 0
    holes: bool = False
    """Whether values are missing here and there."""
    readout: bool = False
    identical: bool = False
    absent: str | None = None
    capture: dict[str, float] = field(default_factory=dict)
    """Arrays of the reference's positions that are this number everywhere."""
    swap: tuple[float, ...] | None = None
    """Size of the block swap of each block."""
    knobs: dict[str, Any] = field(default_factory=dict)


PAIRS: dict[str, Sort] = {
    "a small change": Sort(control=True, noise=3),
    "a large change": Sort(seed=1, change=0.6, readout=True),
    "values are missing": Sort(seed=2, holes=True, control=True, noise=3, readout=True),
    "groups": Sort(seed=3, kinds=("groups", "groups"), control=True),
    "kinds that do not pair": Sort(seed=4, kinds=("influence", "groups")),
    "one prompt": Sort(seed=5, prompts=1, swapped=1),
    "three prompts": Sort(seed=6, prompts=3, swapped=3, control=True),
    "one block": Sort(seed=7, blocks=1),
    "a window of two nodes": Sort(seed=8, knobs={"terminal_fraction": 0.8}),
    "one side twice": Sort(seed=9, identical=True),
    "without weights": Sort(seed=10, absent="checkpoint_not_at_hand", readout=True, noise=1),
    "no alpha": Sort(seed=11, capture={"alpha": np.nan}),
    "alpha is not positive": Sort(seed=12, capture={"alpha": -0.5}),
    "no steps": Sort(seed=13, capture={"transport": np.nan}),
    "steps of zero": Sort(seed=14, capture={"transport": 0.0}),
    "late blocks alone": Sort(seed=15, swap=(0.0, 0.0, 0.0, 0.1, 0.2), holes=True),
    "no change in any block": Sort(seed=16, swap=(0.0,) * 5),
    "hardly a change": Sort(seed=17, change=1e-6, prompts=40),
    "other knobs": Sort(
        seed=18,
        blocks=7,
        knobs={
            "terminal_fraction": 0.45, "weight_delta": 0.5, "weight_coherence": 0.3, "weight_footprint": 0.2,
            "window_all": "wide", "window_last": "tail", "seed": 7,
        },
    ),
}  # fmt: skip


def _side(sort: Sort, profile: MeasurementProfile, name: str, generator: np.random.Generator) -> Trace:
    made = trace(name, sort.blocks, sort.prompts, profile=profile)
    layers = []
    for layer in made.layers:
        positions = {}
        for at, position in layer.positions.items():
            alpha = None if sort.holes and layer.layer == 2 else float(generator.normal(1, 0.2))
            known = layer.layer > 0
            positions[at] = position.model_copy(
                update={
                    "contraction": alpha,
                    "contraction_reason": None if alpha is not None else f"none_{name}_{at}",
                    "contraction_windows": {
                        window: fit.model_copy(update={"alpha": None if sort.holes and i == 3 else generator.normal()})
                        for i, (window, fit) in enumerate(position.contraction_windows.items())
                    },
                    "transport": float(generator.uniform(0.1, 1)) if known else None,
                    "entropy": float(generator.normal(4, 1)),
                    "effective_rank": None if sort.holes and layer.layer == 1 else float(generator.uniform(5, 20)),
                    "underdetermined": sort.holes and at == "last" and name == "candidate",
                }
            )
        layers.append(layer.model_copy(update={"positions": positions}))
    model = made.model
    if sort.readout and name == "candidate":
        model = model.model_copy(update={"readout_digest": "0" * 64})
    engine = made.engine.model_copy(update={"device": "cuda"}) if sort.absent and name == "candidate" else made.engine
    return made.model_copy(update={"layers": tuple(layers), "model": model, "engine": engine})


def _positions(
    sort: Sort, kind: str, generator: np.random.Generator, near: PositionsCapture | None
) -> PositionsCapture:
    """Random values, or those of ``near`` changed at random."""
    prompts, nodes = sort.prompts, sort.blocks + 1
    size = 1.0 if near is None else sort.change
    width = prompts if kind == "influence" else 8
    alpha = size * generator.normal(0.2, 0.3, (len(WINDOWS), nodes))
    alpha += 1.0 + 0.1 * np.arange(nodes) if near is None else near.alpha
    transport = size * generator.uniform(-0.3, 0.3, (prompts, nodes))
    transport += 0.9 - 0.05 * np.arange(nodes) if near is None else near.transport
    entropy = size * generator.normal(0, 1, (prompts, nodes)) + (4.0 if near is None else near.entropy)
    replicates = 0.1 * generator.standard_normal((len(WINDOWS), nodes, width))
    replicates -= replicates.mean(axis=-1, keepdims=True)
    if near is not None and near.replicates.shape == replicates.shape and near.replicate_kind == kind:
        replicates = near.replicates + 0.2 * replicates
    elif kind == "groups":
        replicates = alpha[..., None] + replicates
    transport[:, 0] = np.nan
    rank = generator.uniform(5, 20, nodes)
    if sort.holes:
        transport[1, 2] = transport[0, 3] = entropy[2, 4] = np.nan
        alpha[3, :] = alpha[:, 2] = np.nan
        rank[4] = np.nan
    if near is not None and sort.identical:
        return near
    return PositionsCapture(transport, entropy, alpha, replicates, kind, rank)  # type: ignore[arg-type]  # one of both


def _capture(sort: Sort, of: Trace, generator: np.random.Generator, *, kind: str, near: Capture | None) -> Capture:
    prompts = sort.prompts
    other = {"influence": "groups", "groups": "influence"}[kind]
    parts = {
        at: _positions(sort, kind if at == "all" else other, generator, None if near is None else near.at(at))
        for at in ("last", "all")
    }
    if near is None:
        parts = {
            at: replace(
                part, **{name: np.full_like(getattr(part, name), value) for name, value in sort.capture.items()}
            )
            for at, part in parts.items()
        }
    scored = np.arange(prompts) if near is None else generator.permutation(prompts)[: max(1, prompts - 2)]
    directness = generator.uniform(0.2, 0.8, prompts)
    if sort.holes:
        directness[3] = np.nan
    return Capture(
        trace_digest=of.digest,
        last=parts["last"],
        all=parts["all"],
        nll=3.0 + generator.normal(0, 0.1, scored.size) + (0.0 if near is None else sort.change),
        nll_prompts=scored.astype(np.int64),
        directness=directness,
        row_prompt=np.arange(prompts),
        row_is_last=np.ones(prompts, dtype=bool),
        row_in_all=np.ones(prompts, dtype=bool),
    )


def _evidence(sort: Sort, generator: np.random.Generator, reference: Capture) -> PairEvidence:
    blocks, prompts, swapped, size = sort.blocks, sort.prompts, min(sort.swapped, sort.prompts), sort.change
    if sort.identical:
        size = 0.0
    sizes = np.array(sort.swap) if sort.swap else size * generator.uniform(0.2, 1, blocks)
    swap = sizes * generator.uniform(0.5, 1.5, (swapped, blocks))
    step = sizes * generator.normal(0.5, 1, (swapped, blocks))
    if sort.holes:
        swap[0, 1] = step[1, 2] = np.nan

    def everywhere(low: float, high: float) -> dict[str, np.ndarray]:
        return {at: size * generator.uniform(low, high, (prompts, blocks + 1)) for at in POSITIONS}

    moved = {at: reference.at(at).transport + d for at, d in everywhere(-1, 1).items()} if sort.readout else None
    draws = []
    for i in range(sort.noise):
        alpha = reference.all.alpha + 0.01 * generator.standard_normal(reference.all.alpha.shape)
        transport = reference.all.transport + 0.01 * generator.standard_normal(reference.all.transport.shape)
        draws.append(NoiseDraw(np.full_like(alpha, np.nan) if i == 1 and sort.holes else alpha, transport))
    return PairEvidence(
        block_swap=swap,
        block_swap_transport=step,
        weight_change=sizes * 0.5,
        weight_change_other={"embeddings": size * 0.1, "final_norm": float("nan"), "head": 0.0},
        function_gap=everywhere(0, 1),
        fixed_lens_transport=moved,
        hidden_change=everywhere(0.5, 1.5),
        readout_moved=sort.readout,
        device="cpu",
        dtype="float32",
        duration_s=1.0,
        noise=tuple(draws),
    )


def pair_of(sort: Sort) -> tuple[Pair, tuple[Trace, Capture] | None]:
    """The pair, and the control where there is one."""
    generator = np.random.default_rng(sort.seed)
    knobs = {"bootstrap_draws": 200, "terminal_fraction": 0.55, "noise_draws": sort.noise}
    # What is on record was made under the first profile.
    profile = MeasurementProfile(name="spinal/1", **knobs | sort.knobs)
    reference = _side(sort, profile, "reference", generator)
    candidate = reference if sort.identical else _side(sort, profile, "candidate", generator)
    mine = _capture(sort, reference, generator, kind=sort.kinds[0], near=None)
    theirs = mine if sort.identical else _capture(sort, candidate, generator, kind=sort.kinds[1], near=mine)
    if sort.absent:
        evidence = absent_evidence(reference, candidate, profile, sort.absent)
    else:
        evidence = _evidence(sort, generator, mine)
    control = None
    if sort.control:
        other = _side(sort, profile, "control", generator)
        control = (other, _capture(sort, other, generator, kind=sort.kinds[0], near=mine))
    return Pair(reference, mine, candidate, theirs, evidence, profile), control


def comparison_of(name: str) -> dict[str, Any]:
    """The comparison of a pair and the difference of its traces, without their provenance."""
    pair, control = pair_of(PAIRS[name])
    found: dict[str, Any] = {
        "comparison": pair.compare(control=control).model_dump(
            mode="json", by_alias=True, exclude={"provenance": True, "verdict": {"rules", "weights"}}
        ),
        "diff": diff_traces(pair.reference, pair.candidate).model_dump(mode="json", by_alias=True),
    }
    return found


def spectra() -> dict[str, Any]:
    """What is made of the rows of one layer."""
    found: dict[str, Any] = {}
    for rows, width, tolerance in ((60, 50, 1e-7), (40, 70, 1e-7), (200, 120, 0.05), (9, 30, 1e-7), (1, 4, 1e-7)):
        generator = np.random.default_rng(rows)
        values = generator.standard_normal((rows, width)) / np.arange(1, width + 1) ** 0.7
        sigma = singular_values_of_rows(values)
        rank = numerical_rank(sigma, rows, tolerance)
        fits = fit_windows(sigma, rank, min_ranks=6)
        energies = generator.uniform(0.5, 1.5, (8, max(1, rank)))
        influences = {
            w: alpha_influence(energies, sigma[: max(1, rank)] ** 2, fit, rows=rows) for w, fit in fits.items()
        }
        found[f"{rows} x {width}"] = {
            "sigma": sigma.tolist(),
            "rank": rank,
            "fits": {
                window: [fit.alpha, fit.curvature, fit.k_min, fit.k_max, fit.reason, fit.curved]
                for window, fit in fits.items()
            },
            "influences": {window: _json(values) for window, values in influences.items()},
            "se": {window: _json(influence_se(values)) for window, values in influences.items()},
            "grouped": _json(grouped_se(energies.T)),
            "effective_rank": effective_rank(sigma),
            "participation_ratio": participation_ratio(sigma),
            "top_share": top_share(sigma),
        }
    return found


def _json(values: np.ndarray) -> Any:
    return [None if not np.isfinite(value) else float(value) for value in np.atleast_1d(values)]


def rounded(value: Any) -> Any:
    """Floats to as many digits as the record holds."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def record(name: str) -> Path:
    return FOLDER / f"{name.replace(' ', '-')}.json"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in PAIRS:
        record(name).write_text(json.dumps(rounded(comparison_of(name)), separators=(",", ":")) + "\n")
    record("spectra").write_text(json.dumps(rounded(spectra()), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
