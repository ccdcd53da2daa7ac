"""Rebuild the built-in prompt sets from the public hh-rlhf pairs:
``python build_prompt_set.py PAIRS.jsonl.gz TOKENIZER.json``, the latter that of the bundled checkpoints.

The 512 pairs are those held out when the bundled checkpoints were trained (shuffle seed 0, first 512 of
the usable pairs), so a continuation's NLL is a held-out number on them. ``README.md`` says what each set is.
"""

import gzip
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from spinal.prompts.records import Entry, split_pair

HELD_OUT = 512
SHORTER = 256


def main(source: str, tokenizer: str) -> None:
    with gzip.open(source, "rt", encoding="utf-8") as stream:
        records = [json.loads(line) for line in stream]
    pairs = [pair for record in records if (pair := split_pair(record["chosen"], record["rejected"])) is not None]
    order = list(range(len(pairs)))
    random.Random(0).shuffle(order)  # noqa: S311  the published split, not a secret
    held_out = [pairs[i] for i in order[:HELD_OUT]]
    _write(
        "hh-harmless-512.jsonl.gz", ({"prompt": pair.prompt, "continuation": pair.continuation} for pair in held_out)
    )
    _write("hh-shorter-256.jsonl.gz", _shorter(held_out, Tokenizer.from_file(tokenizer))[:SHORTER])


def _shorter(pairs: list[Entry], tokenizer: Tokenizer) -> list[dict[str, str]]:
    """The shorter answer is the preferred one; pairs of equal length, and prompts seen before, are left out."""
    found: dict[str, dict[str, str]] = {}
    for pair in pairs:
        answers = [answer for answer in (pair.continuation, pair.rejected) if answer]
        lengths = [len(tokenizer.encode(answer, add_special_tokens=False).ids) for answer in answers]
        if lengths[0] != lengths[1]:
            short, long = answers if lengths[0] < lengths[1] else answers[::-1]
            prompt = str(pair.prompt)
            found.setdefault(prompt, {"prompt": prompt, "continuation": short, "rejected": long})
    return list(found.values())


def _write(name: str, records: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    packed = gzip.compress("".join(lines).encode("utf-8"), 9, mtime=0)
    Path(__file__).with_name(name).write_bytes(packed)


if __name__ == "__main__":
    main(*sys.argv[1:3])
