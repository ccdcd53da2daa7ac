"""Changes at known places: what a sentence on where the change sits has to say."""

import math
from collections.abc import Iterable

from benchmarks.checkpoints.broken import noise_like
from benchmarks.checkpoints.kept import int4
from benchmarks.checkpoints.parts import Opened

NOISE = 0.15
ELSEWHERE = 0.01
OUTLIER = 0.1


def embeddings_only(model: Opened) -> None:
    """15% noise on the input embeddings and nothing else."""
    model.embeddings.add_(noise_like(model.embeddings, NOISE, model.generator()))


def unembedding_only(model: Opened) -> None:
    """15% noise on the unembedding and nothing else."""
    model.head.add_(noise_like(model.head, NOISE, model.generator()))


def two_bands(model: Opened) -> None:
    """The first and the last 7/24 of the blocks changed by 10% noise, those between bit-identical."""
    length = math.ceil(len(model.blocks) * 7 / 24)
    _noise(model, [*range(length), *range(len(model.blocks) - length, len(model.blocks))], OUTLIER)


def first_band(model: Opened) -> None:
    """The first 7/24 of the blocks changed, the others bit-identical."""
    _noise(model, range(math.ceil(len(model.blocks) * 7 / 24)), OUTLIER)


def outlier(model: Opened) -> None:
    """10% noise in the middle block (12 of 24) over 1% everywhere."""
    middle = len(model.blocks) // 2 - 1
    _noise(model, range(len(model.blocks)), ELSEWHERE)
    _noise(model, [middle], OUTLIER)


def int4_and_one(model: Opened) -> None:
    """The blocks rounded to 4 bits, and 20% noise in the middle one."""
    int4(model)
    _noise(model, [len(model.blocks) // 2 - 1], 2 * OUTLIER)


def _noise(model: Opened, blocks: Iterable[int], size: float) -> None:
    generator = model.generator()
    for block in blocks:
        for parameter in model.blocks[block].parameters():
            if parameter.dim() > 1:
                parameter.add_(noise_like(parameter, size, generator))
