"""Train, audit and judge: ``python -m benchmarks.series --keep FOLDER``."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEALTHY, BROKEN = 20, 10
"""Seeds of healthy runs, and of each broken kind."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.series", description=__doc__)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(HEALTHY)))
    chosen = parser.parse_args()
    sys.path.insert(0, str(ROOT / "examples"))
    import torch
    from series.texts import read_texts
    from series.train import KINDS, SFT
    from transformers import AutoTokenizer

    from benchmarks.series.measured import make

    torch.set_num_threads(1)
    texts = read_texts(AutoTokenizer.from_pretrained(SFT))
    for seed in chosen.seeds:
        for kind in KINDS if seed < BROKEN else ("healthy",):
            make(chosen.keep, kind, seed, texts)
            print(kind, seed, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
