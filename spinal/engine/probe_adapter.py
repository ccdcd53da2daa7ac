"""Whether a merged adapter computes what PEFT computes before it merges: logits on a short probe."""

from collections.abc import Iterable
from typing import Any

import torch

from spinal.errors import AdapterInvalid

PROBE_TOKENS = 16
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}
"""Of the largest difference, relative to the largest logit. Merging changes the order of sums and rounds each weight
once more, to 2**-24 of it in float32, 2**-11 in float16 and 2**-9 in bfloat16, and the layers after it multiply that:
models of random weights, 3 to 80 blocks deep, came to 1e-5, 1e-2 and 0.1. An adapter merged into a wrong tensor moves
logits by a tenth of them and more."""


def probe_ids(rows: int, more: Iterable[int] = ()) -> torch.Tensor:
    """(1, T) token ids below ``rows``: ``more`` (those that an adapter is about), the last one, and others spread over
    the vocabulary.

    Examples
    --------
    >>> probe_ids(320, more=[7])[0, :4].tolist()
    [7, 319, 0, 20]
    """
    spread = range(0, rows, max(1, rows // PROBE_TOKENS))
    ids = dict.fromkeys([*(i for i in more if 0 <= i < rows), rows - 1, *spread])
    return torch.tensor([list(ids)[:PROBE_TOKENS]])


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(1, T, V) of a causal model in evaluation mode, float32."""
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits.float()
    return found


def require_same_logits(unmerged: torch.Tensor, merged: torch.Tensor, dtype: torch.dtype, source: str) -> None:
    """Raise AdapterInvalid unless the logits agree within the tolerance of ``dtype``, that of the weights. What is not
    finite on both sides passes: the measurement itself names where that begins."""
    limit = TOLERANCES.get(dtype, TOLERANCES[torch.bfloat16])
    finite = torch.isfinite(unmerged)
    if unmerged.shape == merged.shape and bool((torch.isfinite(merged) == finite).all()):
        scale = float(unmerged[finite].abs().max()) if bool(finite.any()) else 0.0
        worst = float((merged - unmerged)[finite].abs().max()) if bool(finite.any()) else 0.0
        if worst <= limit * scale:
            return
        found = f"differ by {worst:.2g} where the largest is {scale:.2g}"
    else:
        found = "are not finite or not of the same vocabulary"
    raise AdapterInvalid(
        f"{source}: logits of the merged adapter and of PEFT's own forward pass {found}",
        hint="merge it yourself with merge_and_unload(), check the result, and submit that model",
    )
