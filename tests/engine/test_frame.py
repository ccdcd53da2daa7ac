"""The best orthogonal map with scale: closed forms, and that rows it was fitted on prove nothing."""

import numpy as np
import pytest
import torch

from spinal.engine.frame import frame_residual

WIDTH, PROMPTS, EACH = 16, 40, 4
OWNER = np.repeat(np.arange(PROMPTS), EACH)


def rows(seed: int, count: int = PROMPTS * EACH) -> torch.Tensor:
    """Rows with directions of very different size, as residuals have."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, WIDTH, generator=generator) * torch.arange(1, WIDTH + 1) ** -1.0


def turned(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64))[0].float()


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("reflected", [False, True])
def test_an_orthogonal_map_with_scale_leaves_nothing_over(scale: float, reflected: bool) -> None:
    """Up to the rounding of float32 rows."""
    turn = turned(1)
    if reflected:
        turn[:, 0] = -turn[:, 0]
    assert frame_residual(rows(0), scale * rows(0) @ turn, OWNER) < 1e-6


@pytest.mark.parametrize("share", [0.03, 0.2])
def test_noise_of_a_known_size_is_what_is_left_over(share: float) -> None:
    """Independent noise of that share of the whole: no map takes it away, and the fit to it costs about
    sqrt(d / rows) more (20 rows a dimension in 5 halves)."""
    whole = rows(0) @ turned(1)
    noise = torch.randn(whole.shape, generator=torch.Generator().manual_seed(2))
    other = whole + share * noise * whole.norm() / noise.norm()
    assert frame_residual(rows(0), other, OWNER) == pytest.approx(share, rel=0.15)


def test_unrelated_rows_are_left_over_whole() -> None:
    assert frame_residual(rows(0), rows(9) @ turned(1), OWNER) > 0.7


def test_a_map_that_stretches_directions_differently_is_no_frame() -> None:
    stretched = rows(0) * torch.linspace(0.5, 2.0, WIDTH)
    assert frame_residual(rows(0), stretched, OWNER) > 0.1


def test_few_rows_prove_no_rotation_but_a_scale() -> None:
    """Twelve rows of sixteen dimensions could be taken to any twelve of the same lengths and angles."""
    few, owner = rows(0)[:12], OWNER[:12]
    assert frame_residual(few, few @ turned(1), owner) > 0.2
    assert frame_residual(few, 2.0 * few, owner) < 1e-6


def test_one_prompt_or_nothing_gives_no_residual() -> None:
    assert np.isnan(frame_residual(rows(0)[:EACH], rows(0)[:EACH], OWNER[:EACH]))
    assert np.isnan(frame_residual(torch.zeros(8, 4), torch.zeros(8, 4), np.arange(8)))
