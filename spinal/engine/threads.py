"""How many threads this process's tensor operations use."""

import torch


def set_threads(count: int) -> None:
    """Set torch's intra-op threads; results on one machine are reproducible for a fixed number."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
