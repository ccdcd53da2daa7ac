"""What carries a preference in a model of 135 million parameters? ``python -m benchmarks.smollm2 WORK [--pairs FILE]``.

Compares SmolLM2-135M-Instruct with a DPO of it ("the shorter answer"), both as ``python -m
benchmarks.checkpoints.smollm2 WORK`` wrote them, on held-out pairs, and prints for each of the 30 blocks what it
carries of the margin and of KL, beside |d alpha|, |d L|, block swap and weight change; then the share of blocks 21-30
(the terminal window) of every one of them, with its interval and what a flat profile would give. ``--control sft-twin``
sets a matched fine-tune beside it. A quarter of an hour on two cores for 24 pairs.
"""

import argparse
import sys
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks.checkpoints.pairs import read_pairs
from benchmarks.checkpoints.prompts import english_only, mixed
from spinal.audit import Ports, audit_pair, temporary_captures
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.account import Account
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison
from spinal.profile import MeasurementProfile

BESIDE = {"d_contraction": "|d alpha|", "d_transport": "|d L|", "block_swap": "block swap", "weights": "weights"}
"""Profiles over blocks that stand beside the accounts, by locator, and what they are called here."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smollm2", description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--candidate", default="dpo-short")
    parser.add_argument("--control", choices=("sft-twin",), help="as written by benchmarks.checkpoints.smollm2")
    parser.add_argument("--pairs", type=Path, help="hh-rlhf pairs, of which the held-out ones are read [the package's]")
    parser.add_argument("--count", type=int, default=24, help="held-out pairs [%(default)s]")
    parser.add_argument("--tokens", type=int, default=128, help="of a prompt with its answer [%(default)s]")
    parser.add_argument("--document", type=Path, help="where to write the whole comparison as JSON")
    chosen = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(chosen.work / "instruct")
    prompts = english_only(mixed(read_pairs(chosen.pairs)[1], tokenizer, english=chosen.count))
    profile = MeasurementProfile(
        name="spinal/2",
        max_tokens=chosen.tokens,
        lens_positions=8,
        swap_prompts=chosen.count,
        continuation_prompts=chosen.count,
        greedy_prompts=0,
        stitch_prompts=chosen.count,
        stitch_tokens=chosen.tokens,
        pair_tokens=chosen.tokens,
    )
    names = ["instruct", chosen.candidate, *([chosen.control] if chosen.control else [])]
    reference, candidate, *control = (resolve_reference(str(chosen.work / name), roots=None) for name in names)
    with temporary_captures() as captures:
        ports = Ports(captures=captures)
        found = audit_pair(reference, candidate, prompts, profile, ports=ports, control=next(iter(control), None))
    if chosen.document:
        chosen.document.write_text(found.model_dump_json(by_alias=True), encoding="utf-8")
    show(found)
    return 0


def show(found: Comparison) -> None:
    """Print the accounts block by block, then the terminal shares."""
    print(found.summary())
    accounts = [found.accounts[name] for name in ("margin", "kl", "refusal") if name in found.accounts]
    for account in accounts:
        print(f"{account.read_out}: total {_shown(account.total)} nats, {account.prompts} prompts"
              f"{f', {account.dropped} dropped' if account.dropped else ''}"
              f"{f'; no shares: {account.reason}' if account.reason else ''}")  # fmt: skip
    columns = [account.read_out for account in accounts]
    print(f"{'place':12}" + "".join(f"{name:>22}" for name in columns)
          + "".join(f"{name:>12}" for name in BESIDE.values()))  # fmt: skip
    for index, place in enumerate(accounts[0].places if accounts else ()):
        shares = "".join(f"{_shown(account.places[index].share):>22}" for account in accounts)
        print(f"{place.place:12}{shares}{_beside(found, place.block)}")
    print()
    for account in accounts:
        print(_terminal(account))
    for name, title in BESIDE.items():
        where = found.localization.get(name)
        if where is not None:
            low_high = where.ci.get("terminal_share")
            interval = f" [{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else ""
            share = "-" if where.terminal_share is None else f"{where.terminal_share:.2f}"
            print(f"{title:12} terminal share {share}{interval}, flat {where.terminal_share_null:.2f}")
    for statement in found.statements:
        print(f"{statement.about}: {statement.text}")


def _terminal(account: Account) -> str:
    flat = account.localization.terminal_share_null if account.localization else None
    null = "" if flat is None else f", flat {flat:.2f}"
    sign = "" if account.cancelling is None else f"; cancelling: {' and '.join(account.cancelling)}"
    return (
        f"{account.read_out:12} terminal share of the blocks' sum {_shown(account.blocks_terminal_share)}{null}{sign}"
    )


def _beside(found: Comparison, block: int | None) -> str:
    if block is None:
        return ""
    layer = found.layers[block]
    values = (layer.d_contraction.all.value, layer.d_transport.all.value, layer.block_swap.value, layer.weight_change)
    return "".join(f"{'-':>12}" if value is None else f"{abs(value):12.4g}" for value in values)


def _shown(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"- ({estimate.reason})"
    interval = f" [{estimate.ci[0]:.2f}, {estimate.ci[1]:.2f}]" if estimate.ci else ""
    return f"{estimate.value:+.3f}{interval}"


if __name__ == "__main__":
    sys.exit(main())
