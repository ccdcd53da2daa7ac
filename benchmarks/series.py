"""When does a run begin to destabilise, and who sees it? ``python -m benchmarks.series --keep FOLDER [--judge]``.

Trains runs of known history (``examples/series``): 20 healthy ones, and 10 of each broken kind. Audits each of their 10
checkpoints against the model that all of them start from, and judges every series by the default policy; beside it,
single curves of the same audits, each with a threshold that gives as many false alarms on healthy runs of other seeds.

KEEP holds what was trained and measured: started again, it goes on where it was, and several at once may take
different ``--seeds``. ``--judge`` trains nothing and judges what is there: seconds. A run takes a minute or two on one
core.
``--store FOLDER NAME ...`` writes runs of KEEP, for example ``flipped-0``, as the small files that the suite reads.
"""

import argparse
import sys
from pathlib import Path

from spinal.analysis.series import effects

ROOT = Path(__file__).resolve().parents[1]
HEALTHY, BROKEN = 20, 10
"""Seeds of healthy runs, and of each broken kind."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.series", description=__doc__)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(HEALTHY)))
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--store", nargs="+", metavar=("FOLDER", "NAME"))
    parser.add_argument("--fall", type=float, help="part of a watch limit from where on a fall counts, to try another")
    chosen = parser.parse_args()
    if chosen.fall is not None:
        effects.FALL = chosen.fall
    sys.path.insert(0, str(ROOT / "examples"))
    if chosen.store:
        return _store(chosen.keep, Path(chosen.store[0]), chosen.store[1:])
    if not chosen.judge:
        _make(chosen.keep, chosen.seeds)
    from benchmarks.trained_series.measured import read_runs
    from benchmarks.trained_series.table import lines

    try:
        print("\n".join(lines([run for run in read_runs(chosen.keep) if run.seed in chosen.seeds])))
    except ValueError as too_few:
        parser.error(f"{chosen.keep}: {too_few}")
    return 0


def _store(keep: Path, folder: Path, names: list[str]) -> int:
    from benchmarks.trained_series.measured import read_runs
    from benchmarks.trained_series.stored import store

    for run in read_runs(keep, names):
        store(run, folder / f"{run.kind}-{run.seed}.json.gz")
    return 0


def _make(keep: Path, seeds: list[int]) -> None:
    import torch
    from series.texts import read_texts
    from series.train import KINDS, SFT
    from transformers import AutoTokenizer

    from benchmarks.trained_series.measured import make

    # One thread: the same sums in the same order, so that runs of one seed are the same bit for bit up to the break.
    torch.set_num_threads(1)
    texts = read_texts(AutoTokenizer.from_pretrained(SFT))
    for seed in seeds:
        for kind in KINDS if seed < BROKEN else ("healthy",):
            make(keep, kind, seed, texts)
            sys.stderr.write(f"{kind} {seed}\n")


if __name__ == "__main__":
    sys.exit(main())
