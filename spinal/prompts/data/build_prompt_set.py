"""Rebuild ``hh-harmless-512.jsonl.gz`` from the public hh-rlhf pairs: ``python build_prompt_set.py PAIRS.jsonl.gz``.

The 512 pairs are those held out when the bundled checkpoints were trained (shuffle seed 0, first 512 of
the usable pairs), so a continuation's NLL is a held-out number on them.
"""

import gzip
import json
import random
import sys
from pathlib import Path

from spinal.prompts.records import split_pair

HELD_OUT = 512


def main(source: str) -> None:
    with gzip.open(source, "rt", encoding="utf-8") as stream:
        records = [json.loads(line) for line in stream]
    pairs = [pair for record in records if (pair := split_pair(record["chosen"], record["rejected"])) is not None]
    order = list(range(len(pairs)))
    random.Random(0).shuffle(order)  # noqa: S311  the published split, not a secret
    lines = [
        json.dumps({"prompt": pairs[i][0], "continuation": pairs[i][1]}, ensure_ascii=False) + "\n"
        for i in order[:HELD_OUT]
    ]
    packed = gzip.compress("".join(lines).encode("utf-8"), 9, mtime=0)
    Path(__file__).with_name("hh-harmless-512.jsonl.gz").write_bytes(packed)


if __name__ == "__main__":
    main(sys.argv[1])
