"""The matched-noise control: random perturbations of the reference, as large as the candidate's change.

Each tensor of the reference is moved in a random direction by the Frobenius norm of the candidate's change in that
tensor, so that every block carries the candidate's norm of change and a frozen tensor stays frozen
(``docs/method.md`` ("Controls")). What such a model shows, any change of that size shows.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from spinal.documents.evidence import NoiseDraw
from spinal.documents.trace import WINDOWS
from spinal.engine.assemble import step_means
from spinal.engine.contraction import window_alphas
from spinal.engine.gather import gather_rows
from spinal.engine.session import Session
from spinal.engine.transport import read_lens, steps
from spinal.engine.weights import shared_rows, squared_change
from spinal.errors import NonFiniteActivations

Tensor = torch.Tensor
STREAM = 0x6E6F6973
"""Keeps the noise apart from every other use of the profile's seed."""


def changes(reference: nn.Module, candidate: nn.Module, shared: int | None = None) -> dict[str, float]:
    """Frobenius norm of candidate - reference by name of parameter, float64; 0 where the two are bit-identical. Where
    the sides have not equally many rows, over the first ``shared``."""
    mine, theirs = shared_rows(dict(reference.named_parameters()), dict(candidate.named_parameters()), shared)
    return {name: math.sqrt(squared_change(parameter, theirs[name])) for name, parameter in mine.items()}


def perturb(
    reference: nn.Module,
    scratch: nn.Module,
    norms: dict[str, float],
    seed: int,
    draw: int,
    rows: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Make ``scratch`` the reference plus noise of the given norm per parameter, in the first ``rows`` of those named
    there. Its own values are given up; tensors without a change share the reference's storage. Equal (seed, draw) give
    equal noise on every device."""
    state = np.random.SeedSequence([STREAM, seed, draw]).generate_state(1, np.uint64)[0]
    generator = torch.Generator("cpu").manual_seed(int(state >> np.uint64(1)))
    into = dict(scratch.named_parameters())
    for name, parameter in reference.named_parameters():
        if norms[name] == 0.0:
            into[name].data = parameter.data
            continue
        direction = torch.randn(parameter.shape, generator=generator)
        if name in rows:
            direction[rows[name] :] = 0.0
        direction *= norms[name] / float(direction.double().norm())
        moved = parameter.data.float() + direction.to(parameter.device)
        into[name].data = moved.to(parameter.dtype)


def noise_curves(session: Session) -> NoiseDraw:
    """alpha and L (radians) of the (perturbed) model of ``session`` at positions ``all``; NaN throughout where the
    model overflows. Raises ArchitectureUnsupported, Cancelled."""
    profile, reporter, nodes = session.profile, session.reporter, session.nodes
    try:
        kept, pooled_rows = gather_rows(session, "matched noise")
        alpha = np.empty((len(WINDOWS), nodes))
        for node, pooled in enumerate(pooled_rows):
            reporter.check()
            alpha[:, node] = window_alphas(pooled, profile)
    except NonFiniteActivations:
        return NoiseDraw(np.full((len(WINDOWS), nodes), np.nan), np.full((session.prompts, nodes), np.nan))
    lens = read_lens([(session.readout, kept.rows)], steps(nodes), check=reporter.check)
    return NoiseDraw(alpha, step_means(lens.distance, session.gathered, "all"))
