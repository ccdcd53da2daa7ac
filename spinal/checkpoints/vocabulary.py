"""Whether the library that will read the prompts can read a checkpoint's tokenizer.json. No torch.

It is written in Rust and panics over some files, and what it needs of memory for others only shows when it reads them:
so a service asks in a process with limits, before it accepts an audit.
"""

import importlib.util
import json
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.tokenizer import TOKENIZER, read_tokenizer, tokenizer_file
from spinal.checkpoints.unchanged import Unchanged
from spinal.errors import TokenizerInvalid
from spinal.errors.faults import callers_fault

MOST_ADDED = 200_000
"""Tokens that stand beside the vocabulary. Models that speak or draw add up to 66,000."""

SAVE_AGAIN = "save the fast tokenizer again with save_pretrained(), and read it once with tokenizers"

_read_before = Unchanged(1024)


def check_tokenizer_loads(checkpoint: Checkpoint) -> None:
    """Load and try the tokenizer, unless that went well before with the file as it is. Where the library is not
    installed only the added tokens are counted; a worker has it. Raises TokenizerInvalid."""
    file = tokenizer_file(checkpoint)
    _read_before.check(None, lambda: [file], lambda: _try(read_tokenizer(checkpoint), checkpoint.source))


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
        Tokenizer.from_str(json.dumps(tokenizer)).encode("")
