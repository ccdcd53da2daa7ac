"""Whether the library that will read the prompts can read a checkpoint's tokenizer.json. No torch.

It is written in Rust and panics over some files, and what it needs of memory for others only shows when it reads them:
so a service asks in a process with limits, before it accepts an audit.
"""

import importlib.util
import json
from contextlib import suppress
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import TOKENIZER, TOKENIZER_FILES, read_settings
from spinal.checkpoints.tokenizer import read_tokenizer
from spinal.checkpoints.unchanged import Unchanged
from spinal.errors import TokenizerInvalid
from spinal.errors.faults import callers_fault

MOST_ADDED = 200_000
"""Tokens that stand beside the vocabulary. Models that speak or draw add up to 66,000."""

PROBE = "a river of stone, and 12 paper windows\n" * 4
SAVE_AGAIN = "save the fast tokenizer again with save_pretrained(), and read it once with tokenizers"

_read_before = Unchanged(1024)


def check_tokenizer_loads(checkpoint: Checkpoint) -> None:
    """Read the tokenizer's files, load and try it, unless that went well before with the files as they are.

    Where the library is not installed it is not tried; a worker has it. Raises TokenizerInvalid.
    """
    where = checkpoint.tokenizing
    names = [name for name in where.files.settings if name in TOKENIZER_FILES]

    def look() -> None:
        for name in names:
            if name.endswith(".json") and name != TOKENIZER:
                read_settings(where.path, name, where.source, where.roots)
        _try(read_tokenizer(checkpoint), checkpoint.source)

    _read_before.check(where.roots, lambda: [where.path / name for name in names], look)


def _try(tokenizer: dict[str, Any], source: str) -> None:
    added = tokenizer.get("added_tokens") or []
    if isinstance(added, list) and len(added) > MOST_ADDED:
        raise TokenizerInvalid(
            f"{source}: {TOKENIZER} adds {len(added):,} tokens to its vocabulary, at most {MOST_ADDED:,} are read",
            hint=SAVE_AGAIN,
        )
    if importlib.util.find_spec("tokenizers") is None:
        return
    from tokenizers import Tokenizer

    with callers_fault(
        lambda why: TokenizerInvalid(f"{source}: {TOKENIZER} cannot be loaded ({why})", hint=SAVE_AGAIN)
    ):
        loaded = Tokenizer.from_str(json.dumps(tokenizer))
        loaded.encode("")
    # What it does to text may take any time and memory, which has to meet the bounds here. That it knows no token of
    # this text is no fault: the prompts at hand may be others.
    with suppress(TokenizerInvalid), callers_fault(TokenizerInvalid):
        loaded.encode(PROBE)
