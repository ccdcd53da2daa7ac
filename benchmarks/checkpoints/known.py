"""Every checkpoint that can be made from one reference without training, with the truth about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmarks.checkpoints import broken, kept, placed
from benchmarks.checkpoints.parts import Opened, opened, write

Truth = Literal["good", "bad", "harmless", "hidden", "placed"]
"""``harmless``: structure moved, behaviour did not. ``hidden``: bad, but no given prompt can show it. ``placed``: a
change at a known place, for the sentence; whether it hurts depends on the model."""


@dataclass(frozen=True)
class Known:
    """How a checkpoint is made, and what is true of it."""

    truth: Truth
    change: Callable[[Opened], None]
    exact: bool = False
    """Whether it computes the same function up to rounding."""
    afterwards: Callable[[Path], None] | None = None
    """What is changed in the files that were written."""


KNOWN: dict[str, Known] = {
    "copy": Known("good", kept.nothing, exact=True),
    "permuted": Known("good", kept.permuted, exact=True),
    "folded": Known("good", kept.folded, exact=True),
    "residual-x2": Known("good", kept.doubled, exact=True),
    "rotated": Known("good", kept.rotated, exact=True),
    "other-settings": Known("good", kept.other_settings, exact=True, afterwards=kept.write_other_settings),
    "int8": Known("good", kept.int8),
    "int4": Known("good", kept.int4),
    "exchanged": Known("harmless", kept.exchanged),
    "norm-x1.3": Known("bad", broken.louder),
    "norm-x0.7": Known("bad", broken.quieter),
    "noisy-head": Known("bad", broken.noisy_head),
    "negated-rows": Known("bad", broken.negated_rows),
    "never-ends": Known("bad", broken.never_ends),
    "always-ends": Known("bad", broken.always_ends),
    "language-lost": Known("bad", broken.language_lost),
    "other-rope": Known("bad", broken.other_rope),
    "other-activation": Known("bad", broken.other_activation),
    "zeroed-block": Known("bad", broken.zeroed_block),
    "shuffled-blocks": Known("bad", broken.shuffled_blocks),
    "triggered": Known("hidden", broken.triggered),
    "embeddings-only": Known("placed", placed.embeddings_only),
    "unembedding-only": Known("placed", placed.unembedding_only),
    "first-band": Known("placed", placed.first_band),
    "two-bands": Known("placed", placed.two_bands),
    "outlier": Known("placed", placed.outlier),
    "int4-and-one": Known("placed", placed.int4_and_one),
}
"""By name. The reference of all is the untied float32 copy of a model (``copy`` once more is that again)."""


def reference(folder: Path, out: Path) -> Path:
    """Write the untied float32 copy of a checkpoint, against which all others are told apart, to the folder ``out``."""
    return write(opened(folder), out)


@torch.no_grad()
def make(
    name: str, folder: Path, out: Path, usual: Sequence[str] = (), foreign: Sequence[str] = (), *, seed: int = 0
) -> Path:
    """Write checkpoint ``name``, made from the one in ``folder``, to the folder ``out``. ``usual`` are texts that an
    audit reads, ``foreign`` those of the category that ``language-lost`` destroys. Raises Unknown where such a model
    cannot be changed in this way."""
    known = KNOWN[name]
    model = opened(folder, usual, foreign, seed=seed)
    known.change(model)
    write(model, out)
    if known.afterwards is not None:
        known.afterwards(out)
    return out


@torch.no_grad()
def soup(folder: Path, others: Sequence[Path], out: Path) -> Path:
    """Write the mean of several models of one shape to the folder ``out``, with the tokenizer of the first."""
    model = opened(folder)
    sides = [dict(opened(other).model.named_parameters()) for other in others]
    for name, parameter in model.model.named_parameters():
        parameter.copy_(torch.stack([parameter, *(side[name] for side in sides)]).mean(0))
    return write(model, out)
