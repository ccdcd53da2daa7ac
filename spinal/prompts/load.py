"""A prompt set from what a caller names: a built-in set, or a file."""

from pathlib import Path

from spinal.errors import PromptFileNotFound
from spinal.prompts.builtin import BUILTIN_SETS, builtin_prompts
from spinal.prompts.formats import parse_prompts, read_text
from spinal.prompts.sets import PromptSet


def load_prompts(source: str) -> PromptSet:
    """A built-in set by name, or a file: text (one prompt a line), JSONL with ``prompt`` (and optionally
    ``continuation``), or hh-rlhf pairs (``chosen``/``rejected``); gzip accepted.

    Raises PromptFileNotFound, PromptSetInvalid, PromptSetEmpty.
    """
    if source in BUILTIN_SETS:
        return builtin_prompts(source)
    path = Path(source)
    if not path.is_file():
        raise PromptFileNotFound(
            f"no prompt file at {source}", hint=f"give a file, or a built-in set: {', '.join(BUILTIN_SETS)}"
        )
    return parse_prompts(read_text(path), name=path.name)
