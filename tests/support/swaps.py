"""Checkpoints that somebody changes while they are measured: seeded tries, and what each was attributed to.

A try takes one of two tiny checkpoints through a trace or a comparison, loaded whole or streamed, and changes one of
its files at a random moment: ahead of it, or when any step of it reports progress. What comes out is an error that says
``model_changed``, or numbers that are those of the content that they are attributed to.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spinal.audit import Ports, audit_pair, temporary_captures, trace_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.errors import SpinalError
from spinal.profile import MeasurementProfile
from spinal.progress import Progress, ProgressSink
from spinal.prompts.sets import PromptSet
from tests.support.places import EXAMPLES

PROFILE = MeasurementProfile(max_tokens=12, lens_positions=2, bootstrap_draws=200, swap_prompts=4)
PROMPTS = PromptSet(tuple(f"How do I plant tree number {n} in {n} days?" for n in range(6)), (None,) * 6)
SIDES = ("reference", "candidate")
OPERATIONS = ("trace", "streamed trace", "comparison", "streamed comparison")
FILES = ("model.safetensors",) * 3 + ("config.json", "tokenizer.json")
Act = Callable[[Path, Path], None]


def replaced(path: Path, other: Path) -> None:
    new = path.with_name("new")
    shutil.copyfile(other, new)
    new.replace(path)


def overwritten(path: Path, other: Path) -> None:
    """In place, with the times put back."""
    before, raw = path.stat(), other.read_bytes()
    with path.open("r+b") as file:
        file.write(raw[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncated(path: Path, _other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def deleted(path: Path, _other: Path) -> None:
    path.unlink()


def made_a_fifo(path: Path, _other: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def made_a_link(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


def folder_replaced(path: Path, other: Path) -> None:
    """The whole folder, as a trainer does that writes ``latest`` anew."""
    aside = path.parent.with_name("aside")
    path.parent.rename(aside)
    shutil.copytree(other.parent, path.parent)


ACTS: tuple[Act, ...] = (replaced, overwritten, truncated, deleted, made_a_fifo, made_a_link, folder_replaced)


@dataclass
class Attempt:
    """One try: what was done when, and what came of it."""

    seed: int
    operation: str
    act: str
    file: str
    moment: int
    """Steps of progress before it; 0 is ahead of everything."""
    acted: bool = False
    code: str | None = None
    """Of the error that it ended with."""
    wrong: bool = False
    """Numbers were attributed to a content that does not have them."""


@dataclass
class Truth:
    """What each content really gives, and how many steps each operation has."""

    root: Path
    numbers: dict[tuple[str, ...], Any] = field(default_factory=dict)
    """By the digests that they are attributed to: one of a trace, two of a comparison."""
    steps: dict[str, int] = field(default_factory=dict)


def build(folder: Path, seed: int) -> Path:
    """A tiny Llama with the bundled tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=2080, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(EXAMPLES / "checkpoints" / "sft" / name, folder / name)
    return folder


def learn(root: Path) -> Truth:
    """Two checkpoints below ``root``, and what they give in peace."""
    truth = Truth(root)
    for seed, side in enumerate(SIDES):
        build(root / "kept" / side, seed)
        # Another spelling of the same vocabulary: other bytes, the same ids.
        if side == "candidate":
            path = root / "kept" / side / "tokenizer.json"
            path.write_text(path.read_text() + "\n")
    # Either side may take the other's place.
    for operation in OPERATIONS:
        for sides in ((SIDES[0], SIDES[1]), (SIDES[1], SIDES[0]), (SIDES[0], SIDES[0]), (SIDES[1], SIDES[1])):
            steps: list[Progress] = []
            result = _carry_out(operation, [root / "kept" / side for side in sides], steps.append)
            truth.steps[operation] = len(steps)
            _remember(truth, result)
    return truth


def attempt(truth: Truth, seed: int) -> Attempt:
    """Try number ``seed``."""
    chance = random.Random(seed)
    operation, act, name = chance.choice(OPERATIONS), chance.choice(ACTS), chance.choice(FILES)
    made = Attempt(seed, operation, act.__name__, name, chance.randrange(truth.steps[operation]))
    work = truth.root / "work"
    shutil.rmtree(work, ignore_errors=True)
    folders = [Path(shutil.copytree(truth.root / "kept" / side, work / side)) for side in SIDES]
    victim = chance.randrange(2 if "comparison" in operation else 1)
    other = truth.root / "kept" / SIDES[1 - victim] / name
    steps = 0

    def disturb(_: Progress | None = None) -> None:
        nonlocal steps
        if steps == made.moment:
            act(folders[victim] / name, other)
            made.acted = True
        steps += 1

    try:
        result = _carry_out(operation, folders, disturb)
    except SpinalError as error:
        made.code = error.code
    else:
        if not _is_known(truth, result):
            # One side's weights with the other's configuration, say: what are its numbers in peace?
            _remember(truth, _carry_out(operation, folders, lambda _: None))
        made.wrong = not _is_true(truth, result)
    return made


@contextmanager
def _watch(sink: ProgressSink) -> Iterator[ProgressSink]:
    yield sink


def _carry_out(operation: str, folders: list[Path], told: Callable[[Progress], None]) -> Trace | Comparison:
    sides = [resolve_reference(str(folder), roots=None) for folder in folders]
    told(Progress("begin", 0, 1, 0.0))
    with temporary_captures() as captures:
        ports = Ports(captures=captures, watch=lambda _: _watch(told), stream=operation.startswith("streamed"))
        if operation.endswith("trace"):
            return trace_checkpoint(sides[0], PROMPTS, PROFILE, ports=ports).trace
        return audit_pair(sides[0], sides[1], PROMPTS, PROFILE, ports=ports)


def _numbers(result: Trace | Comparison) -> Any:
    return [layer.model_dump(mode="json") for layer in result.layers]


def _key(result: Trace | Comparison) -> tuple[str, ...]:
    if isinstance(result, Trace):
        return (result.model.weights_digest,)
    return (result.reference.weights_digest, result.candidate.weights_digest)


def _remember(truth: Truth, result: Trace | Comparison) -> None:
    truth.numbers[_key(result)] = _numbers(result)


def _is_known(truth: Truth, result: Trace | Comparison) -> bool:
    return _key(result) in truth.numbers


def _is_true(truth: Truth, result: Trace | Comparison) -> bool:
    """Whether its numbers are those of the content that it names."""
    return bool(truth.numbers.get(_key(result)) == _numbers(result))
