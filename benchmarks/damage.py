"""False alarms and misses of the damage panel on checkpoints of known condition: ``python -m benchmarks.damage``.

Measures ``sft`` against every checkpoint of ``examples/history`` and prints each panel, with what the limits of
``spinal/analysis/damage/limits.py`` made of it. Deterministic; a minute on two cores.
"""

import sys
import tempfile
from pathlib import Path

from spinal.audit import Ports, TemporaryCaptures, Traced, compare_traces, trace_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts

ROOT = Path(__file__).resolve().parents[1]
WORKING = ("dpo-short", "sft-twin", "dpo-blocks-1-7", "dpo-blocks-9-15", "dpo-blocks-18-24")
WRECKED = ("dpo-overoptimised", "dpo-broken")
PROFILE = MeasurementProfile(name="spinal/1", max_tokens=96, swap_prompts=64, stitch_prompts=0)
SHOWN = ("nll_change", "hidden_change", "block_swap_mean")


def main() -> int:
    sys.path.insert(0, str(ROOT / "examples"))
    from history_checkpoints import rebuild

    prompts = builtin_prompts("hh-harmless-128")

    def traced(name: str, folder: Path, ports: Ports) -> Traced:
        side = resolve_reference(str(rebuild(name, folder)), roots=None)
        return trace_checkpoint(side, prompts, PROFILE, ports=ports)

    wrong: dict[str, list[str]] = {"false alarms": [], "misses": []}
    print(
        f"{'candidate':20} {'condition':10} {'panel':9} " + " ".join(f"{name:>16}" for name in SHOWN) + "  delta_align"
    )
    with tempfile.TemporaryDirectory(prefix="spinal-damage-") as temporary:
        folder = Path(temporary)
        ports = Ports(captures=TemporaryCaptures(folder))
        reference = traced("sft", folder, ports)
        for name in (*WORKING, *WRECKED):
            candidate = traced(name, folder, ports)
            result = compare_traces(reference, candidate, PROFILE, ports=ports, prompts=prompts)
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
