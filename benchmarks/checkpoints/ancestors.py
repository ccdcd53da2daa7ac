"""The ancestors, and everything that is built and judged beside each of them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks.checkpoints import train
from benchmarks.checkpoints.known import KNOWN, Truth, make, reference, soup
from benchmarks.checkpoints.pairs import read_pairs
from benchmarks.checkpoints.prompts import foreign_texts, mixed
from spinal.prompts.sets import PromptSet

ROOT = Path(__file__).resolve().parents[2]
ANCESTORS = ("bundled", "gpt2", "neox", "smollm2")
HISTORY: dict[str, Truth] = {
    "dpo-short": "good",
    "sft-twin": "good",
    "dpo-overoptimised": "bad",
    "dpo-broken": "bad",
}
"""Fine-tunes of the bundled ancestor that ship with the repository."""
BESIDE_HISTORY = ("dpo-second-seed", "early-stop", "dpo-flipped")
"""Those that are trained beside them."""
SMOLLM2: dict[str, Truth] = {
    "dpo-short": "good",
    "dpo-short-bf16": "good",
    "sft-twin": "good",
    "dpo-flipped": "bad",
    "dpo-overoptimised": "bad",
}
"""Fine-tunes that ``python -m benchmarks.checkpoints.smollm2`` writes, as far as it was asked for them."""


@dataclass(frozen=True)
class Case:
    """One checkpoint that is judged."""

    name: str
    truth: Truth
    against: Path
    """Its reference."""
    make: Callable[[Path], Path]
    """Writes it to a path that is not taken, or finds it; gives where it is."""


@dataclass(frozen=True)
class Ancestor:
    """Everything that is made of one reference, and the prompts on which it is judged."""

    name: str
    cases: tuple[Case, ...]
    prompts: PromptSet


def prepare(name: str, work: Path, source: Path | None, english: int) -> Ancestor:
    """Ancestor ``name`` with its trained checkpoints in the folder ``work``, where those that stand there already are
    found again; ``source`` is a file of pairs (:func:`benchmarks.checkpoints.pairs.read_pairs`). Raises
    FileNotFoundError where SmolLM2 was not unpacked."""
    trained = _fine_tunes(name, work, source)
    original = train.BUNDLED if name == "bundled" else work / ("instruct" if name == "smollm2" else "sft")
    untied = work / "untied"
    if not untied.exists():
        reference(original, untied)
    prompts = mixed(read_pairs(source)[1], AutoTokenizer.from_pretrained(original), english=english)
    usual = [
        f"{prompt}{answer or ''}"
        for prompt, answer, category in zip(prompts.prompts, prompts.continuations, prompts.categories, strict=True)
        if category != "russian"
    ]

    def changed(one: str, out: Path) -> Path:
        return make(one, original, out, usual, foreign_texts())

    cases = [Case(one, known.truth, untied, partial(changed, one)) for one, known in KNOWN.items()]
    cases += [Case(one, truth, original, partial(_found, work / one)) for one, truth in trained.items()]
    if {"dpo-short", "sft-twin"} <= trained.keys():
        mean = partial(soup, work / "dpo-short", [work / "sft-twin"])
        cases.append(Case("soup", "good", original, mean))
    return Ancestor(name, tuple(cases), prompts)


def _found(folder: Path, out: Path) -> Path:
    return folder


def _fine_tunes(name: str, work: Path, source: Path | None) -> dict[str, Truth]:
    """What stands in ``work`` and the truth of it; what is missing is trained, SmolLM2's apart."""
    if name == "smollm2":
        if not (work / "instruct").exists():
            raise FileNotFoundError(f"{work}/instruct: write it with python -m benchmarks.checkpoints.smollm2 {work}")
        return {one: truth for one, truth in SMOLLM2.items() if (work / one).exists()}
    work.mkdir(parents=True, exist_ok=True)
    if name != "bundled":
        train.train_all(name, work, source)
        return {one: recipe.truth for one, recipe in train.RECIPES.items()}
    for one in HISTORY:
        if not (work / one).exists():
            from_history(one, work)
    train.train_all(name, work, source, BESIDE_HISTORY)
    return HISTORY | {one: train.RECIPES[one].truth for one in BESIDE_HISTORY}


def from_history(name: str, out: Path) -> Path:
    """Write a checkpoint of ``examples/history`` below ``out``; its folder."""
    sys.path.insert(0, str(ROOT / "examples"))
    from history_checkpoints import rebuild

    return rebuild(name, out)
