"""Prompt sets that ship with the package."""

import gzip
from functools import cache
from importlib import resources

from spinal.errors import PromptSetNotFound
from spinal.prompts.formats import Source, parse_prompts
from spinal.prompts.sets import PromptSet

FILES = {"hh-harmless": "hh-harmless-512.jsonl.gz", "hh-shorter": "hh-shorter-256.jsonl.gz"}
"""By family of sets, the file whose first n prompts each of them holds."""
BUILTIN_SETS = (
    "hh-harmless-512",
    "hh-harmless-256",
    "hh-harmless-128",
    "hh-harmless-64",
    "hh-shorter-256",
    "hh-shorter-64",
)
"""Built-in sets: the first n of the same 512 prompts of hh-rlhf harmless-base (MIT licence), and of the same 256 pairs
among them, of which the shorter answer is called the preferred one (``data/README.md``)."""
DEFAULT_SET = "hh-harmless-512"


def is_builtin(prompts: PromptSet) -> bool:
    """Whether it is one of the sets that ship with the package, by what it holds and not by its name alone."""
    return prompts.name in BUILTIN_SETS and builtin_prompts(prompts.name).digest == prompts.digest


@cache
def builtin_prompts(name: str) -> PromptSet:
    """A set that ships with the package; raises PromptSetNotFound."""
    if name not in BUILTIN_SETS:
        raise PromptSetNotFound(f"no prompt set named {name!r}", hint=f"built in: {', '.join(BUILTIN_SETS)}")
    family, count = name.rsplit("-", 1)
    packed = resources.files("spinal.prompts").joinpath("data", FILES[family]).read_bytes()
    whole = parse_prompts(Source(name, gzip.decompress(packed)))
    return whole.chosen(range(int(count)), name)
