"""Whether two sides write their last residuals in one basis: the best orthogonal map with scale from one to the other.

A model whose residual basis is scaled or rotated computes the same function (``docs/method.md`` ("Floors and frames")).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from spinal.progress import never_cancelled

Tensor = torch.Tensor
TOWARDS_ONE = 1e-10
"""Weight of the identity in a fit, relative to the Frobenius norm of what is fitted: directions that no row has stay as
they are, so that a mere scale is found from few rows."""


def frame_residual(
    before: Tensor, after: Tensor, prompt: npt.NDArray[np.int64], check: Callable[[], object] = never_cancelled
) -> float:
    """Share of ``after`` (K, d) that the best orthogonal map with scale of ``before`` (K, d) leaves over, at least 0.

    The map is fitted on every other prompt (``prompt`` (K,) names the owner of each row) and tried on the prompts
    between them, and the other way round: a map of d dimensions takes any d rows to any others of the same lengths and
    angles, so the rows that it was fitted on prove nothing. NaN with fewer than two prompts or rows of zeros. ``check``
    is called before each fit, and leaves by raising.

    Examples
    --------
    >>> rows = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
    >>> frame_residual(rows, 3.0 * rows @ turn, np.arange(64)) < 1e-5
    True
    """
    kept = torch.from_numpy(np.unique(prompt, return_inverse=True)[1] % 2 == 0).to(before.device)
    left = total = 0.0
    for fitted in (kept, ~kept):
        mine, other = before[fitted].double(), after[fitted].double()
        if not len(mine) or not bool(mine.any()) or not bool(other.any()):
            return float("nan")
        check()
        turned = before[~fitted].double() @ _best_map(mine, other)
        tried = after[~fitted].double()
        left += float((turned - tried).square().sum())
        total += float(tried.square().sum())
    return float(np.sqrt(left / total)) if total > 0.0 else float("nan")


def _best_map(mine: Tensor, other: Tensor) -> Tensor:
    """s Q (d, d), Q orthogonal, that minimises ||s mine Q - other||_F; Q is the polar factor of mine^T other."""
    product = mine.T @ other
    one = torch.eye(len(product), dtype=product.dtype, device=product.device)
    u, _, vt = torch.linalg.svd(product + TOWARDS_ONE * torch.linalg.matrix_norm(product) * one)
    q = u @ vt
    return q * ((product * q).sum() / mine.square().sum())
