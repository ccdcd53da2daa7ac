"""Are verdicts true? ``python -m benchmarks.verdicts [--ancestor NAME ...] [--work DIR] [--pairs FILE] [--calibrate]``.

Builds good and bad checkpoints from ancestors of different size and architecture (``benchmarks/checkpoints``), audits
each against its reference under the default policy, and prints the truth, the verdict and every signal with its
interval; then misses and false alarms, with Wilson's intervals. ``--calibrate`` prints the largest value on good and
the smallest on bad by signal and ancestor, and judges each ancestor by limits taken from the others.

``bundled`` (2 M, Llama) and ``gpt2`` (2.7 M, learned positions) are trained in minutes; ``smollm2`` (135 M) needs what
``python -m benchmarks.checkpoints.smollm2`` wrote to WORK/smollm2, and about a minute for each of its checkpoints.
``--save FILE`` keeps what was found, ``--rows FILE ...`` reads it again instead of auditing. An error ends it with its
traceback: no misses are counted over part of the checkpoints, and nothing is saved.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.checkpoints.ancestors import ANCESTORS, Ancestor, Case, prepare
from benchmarks.checkpoints.calibration import Row, extremes, read, save, summary, transferred
from benchmarks.checkpoints.parts import Unknown
from benchmarks.checkpoints.prompts import ENGLISH, english_only
from spinal.audit import Ports, TemporaryCaptures, Traced, compare_traces, trace_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.comparison import Comparison, DamageSignal
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet

PROFILE = MeasurementProfile(
    name="spinal/2",
    max_tokens=96,
    lens_positions=4,
    swap_prompts=32,
    continuation_prompts=96,
    bootstrap_draws=500,
)
"""The defaults of the profile on fewer prompts."""
STITCHED = {"smollm2": 0}
"""Pairs over which the margin is told where ``--stitch`` does not say; for the large one it costs far more than all
else."""


class Auditor:
    """Audits checkpoints of one ancestor; every reference is traced once for each prompt set."""

    def __init__(self, folder: Path, profile: MeasurementProfile) -> None:
        self._folder = folder
        self._profile = profile
        self._references: dict[tuple[Path, str], Traced] = {}

    def audit(self, reference: Path, candidate: Path, prompts: PromptSet) -> Comparison:
        """The comparison of two folders under the default policy."""
        key = reference, prompts.digest
        if key not in self._references:
            place = self._folder / f"reference-{len(self._references)}"
            place.mkdir()
            self._references[key] = self._traced(reference, prompts, Ports(captures=TemporaryCaptures(place)))
        with TemporaryDirectory(dir=self._folder) as temporary:
            ports = Ports(captures=TemporaryCaptures(Path(temporary)))
            traced = self._traced(candidate, prompts, ports)
            return compare_traces(self._references[key], traced, self._profile, ports=ports, prompts=prompts)

    def _traced(self, folder: Path, prompts: PromptSet, ports: Ports) -> Traced:
        return trace_checkpoint(resolve_reference(str(folder), roots=None), prompts, self._profile, ports=ports)


def judge(ancestor: Ancestor, auditor: Auditor, work: Path, only: list[str] | None) -> Iterator[Row]:
    """Build and audit every case in turn; a checkpoint made for the occasion is gone before the next."""
    for case in ancestor.cases:
        if only and case.name not in only:
            continue
        out = work / f"made-{case.name}"
        try:
            candidate = case.make(out)
            yield row_of(ancestor.name, case, auditor.audit(case.against, candidate, ancestor.prompts))
            if case.name == "language-lost":
                # The same fault is out of sight where nobody asks in that language.
                unseen = Case(f"{case.name} (English prompts)", "hidden", case.against, case.make)
                found = auditor.audit(case.against, candidate, english_only(ancestor.prompts))
                yield row_of(ancestor.name, unseen, found)
        except Unknown as error:
            print(f"{ancestor.name:8} {case.name:18} not made: {error}", flush=True)
        finally:
            shutil.rmtree(out, ignore_errors=True)


def row_of(ancestor: str, case: Case, found: Comparison) -> Row:
    """What of a comparison is kept and printed."""
    return Row(
        ancestor,
        case.name,
        case.truth,
        found.verdict.outcome,
        tuple(found.verdict.reasons),
        tuple(statement.text for statement in found.statements),
        {name: signal.model_dump(mode="json") for name, signal in found.damage.signals.items()},
    )


def show(row: Row) -> None:
    """Print one row: the verdict, its reasons, and the signals."""
    print(f"{row.ancestor:8} {row.name:18} {row.truth:9} -> {row.outcome}", flush=True)
    for text in dict.fromkeys((*row.reasons, *row.statements)):
        print(f"    {text}")
    print("    " + "; ".join(_signal(name, DamageSignal(**held)) for name, held in row.signals.items()), flush=True)


def _signal(name: str, signal: DamageSignal) -> str:
    if signal.value is None:
        return f"{name} - ({signal.reason})"
    interval = f" [{signal.ci[0]:.3g}, {signal.ci[1]:.3g}]" if signal.ci else ""
    about = f" of {signal.of}" if signal.of else ""
    raised = f" {signal.level}" if signal.level in ("watch", "damaged") else ""
    return f"{name}{about} {signal.value:.3g}{interval}{raised}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.add_argument("--ancestor", nargs="+", choices=ANCESTORS, default=["bundled", "gpt2"])
    parser.add_argument("--only", nargs="+", help="checkpoints by name")
    parser.add_argument("--work", type=Path, help="where what was trained is kept and found again, by ancestor")
    parser.add_argument("--pairs", type=Path, help="hh-rlhf pairs to train on and to hold out [those of the package]")
    parser.add_argument("--english", type=int, default=ENGLISH, help="English prompts of the set [%(default)s]")
    parser.add_argument(
        "--stitch", type=int, help="pairs over which the margin is told, 0 for none [24; smollm2: 0, and no margin]"
    )
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--rows", type=Path, nargs="+")
    chosen = parser.parse_args()
    rows = [row for path in chosen.rows or () for row in read(path)]
    with TemporaryDirectory(prefix="spinal-verdicts-") as temporary:
        for name in () if chosen.rows else chosen.ancestor:
            work = (chosen.work or Path(temporary)) / name
            ancestor = prepare(name, work, chosen.pairs, chosen.english, chosen.only)
            folder = Path(temporary) / f"audits-{name}"
            folder.mkdir()
            stitched = STITCHED.get(name, 24) if chosen.stitch is None else chosen.stitch
            profile = PROFILE.model_copy(update={"stitch_prompts": stitched, "stitch_tokens": 64})
            for row in judge(ancestor, Auditor(folder, profile), folder, chosen.only):
                show(row)
                rows.append(row)
    if chosen.save:
        save(rows, chosen.save)
    for ancestor_name in dict.fromkeys(row.ancestor for row in rows):
        print(f"\n{ancestor_name}")
        print(*summary([row for row in rows if row.ancestor == ancestor_name]), sep="\n")
    print("\nall ancestors", *summary(rows), sep="\n")
    if chosen.calibrate:
        print("", *extremes(rows), "", *transferred(rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
