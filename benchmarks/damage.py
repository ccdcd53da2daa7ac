"""False alarms and misses of the damage panel on checkpoints of known condition: ``python -m benchmarks.damage``.

Measures ``sft`` against every checkpoint of ``examples/history`` and prints each panel, with what the thresholds of
``spinal/analysis/damage.py`` made of it. Deterministic; a minute on two cores.
"""

import sys
import tempfile
import time
from pathlib import Path

from spinal.analysis.compare import compare
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.capture import Capture, load_capture
from spinal.documents.provenance import make_provenance
from spinal.documents.trace import Trace
from spinal.engine.api import gather_evidence, measure
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts

ROOT = Path(__file__).resolve().parents[1]
WORKING = ("dpo-short", "sft-twin", "dpo-blocks-1-7", "dpo-blocks-9-15", "dpo-blocks-18-24")
WRECKED = ("dpo-overoptimised", "dpo-broken")
PROFILE = MeasurementProfile(max_tokens=96, swap_prompts=64)
SHOWN = ("nll_change", "hidden_change", "block_swap_mean")


def main() -> int:
    sys.path.insert(0, str(ROOT / "examples"))
    from history_checkpoints import rebuild

    prompts = builtin_prompts("hh-harmless-128")

    def traced(name: str, folder: Path) -> tuple[Checkpoint, Trace, Path, Capture]:
        made = rebuild(name, folder)
        side = resolve_reference(str(made), roots=None)
        path = folder / f"{name}.capture.safetensors"
        trace = measure(side, prompts, PROFILE, capture_path=path)
        return side, trace, path, load_capture(path)

    wrong: dict[str, list[str]] = {"false alarms": [], "misses": []}
    print(
        f"{'candidate':20} {'condition':10} {'panel':9} " + " ".join(f"{name:>16}" for name in SHOWN) + "  delta_align"
    )
    with tempfile.TemporaryDirectory(prefix="spinal-damage-") as temporary:
        folder = Path(temporary)
        reference = traced("sft", folder)
        for name in (*WORKING, *WRECKED):
            started = time.monotonic()
            candidate = traced(name, folder)
            evidence = gather_evidence(
                reference[0], candidate[0], reference_capture=reference[2], candidate_capture=candidate[2],
                prompts=prompts, profile=PROFILE, device="cpu",
            )  # fmt: skip
            provenance = make_provenance(
                device="cpu", dtype=evidence.dtype, threads=1, seed=PROFILE.seed, command=None, started=started
            )
            result = compare(reference[1], reference[3], candidate[1], candidate[3], evidence, PROFILE, provenance)
            damage = result.damage
            condition = "working" if name in WORKING else "wrecked"
            values = " ".join(f"{damage.signals[signal].value or 0.0:16.3f}" for signal in SHOWN)
            print(f"{name:20} {condition:10} {damage.level:9} {values} {result.scores.delta_align or 0.0:12.4f}")
            if condition == "working" and damage.level != "none":
                wrong["false alarms"].append(name)
            if condition == "wrecked" and damage.level != "damaged":
                wrong["misses"].append(name)
    print(f"false alarms: {len(wrong['false alarms'])} of {len(WORKING)} working {wrong['false alarms'] or ''}")
    print(f"misses: {len(wrong['misses'])} of {len(WRECKED)} wrecked {wrong['misses'] or ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
