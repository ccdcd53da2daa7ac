"""The ancestors, and everything that is built and judged beside each of them."""

import sys
from collections.abc import Callable, Collection
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
SOUP = ("dpo-short", "sft-twin")
"""Healthy fine-tunes of which the mean is judged, too."""
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


def prepare(name: str, work: Path, source: Path | None, english: int, only: Collection[str] | None = None) -> Ancestor:
    """Ancestor ``name`` with its trained checkpoints in the folder ``work``, where those that stand there already are
    found again; ``source`` is a file of pairs (:func:`benchmarks.checkpoints.pairs.read_pairs`). Where names are given
    that alone are wanted (``only``), no other one is trained. Raises FileNotFoundError where SmolLM2 was not unpacked.
    """
    wanted = None if only is None else {*only, *(SOUP if "soup" in only else ())}
    trained = _fine_tunes(name, work, source, wanted)
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
    if trained.keys() >= set(SOUP):
        first, *others = (work / one for one in SOUP)
        mean = partial(soup, first, others)
        cases.append(Case("soup", "good", original, mean))
    return Ancestor(name, tuple(cases), prompts)


def _found(folder: Path, out: Path) -> Path:
    return folder


def _fine_tunes(name: str, work: Path, source: Path | None, wanted: set[str] | None) -> dict[str, Truth]:
    """What stands in ``work`` and the truth of it; what is wanted and missing is trained, SmolLM2's apart."""
    if name == "smollm2":
        if not (work / "instruct").exists():
            raise FileNotFoundError(f"{work}/instruct: write it with python -m benchmarks.checkpoints.smollm2 {work}")
        return {one: truth for one, truth in SMOLLM2.items() if (work / one).exists()}
    work.mkdir(parents=True, exist_ok=True)
    shipped = HISTORY if name == "bundled" else {}
    made = BESIDE_HISTORY if name == "bundled" else tuple(train.RECIPES)
    asked = [one for one in made if wanted is None or one in wanted]
    for one in shipped:
        if not (work / one).exists():
            from_history(one, work)
    train.train_all(name, work, source, asked)
    return shipped | {one: train.RECIPES[one].truth for one in asked}


def from_history(name: str, out: Path) -> Path:
    """Write a checkpoint of ``examples/history`` below ``out``; its folder."""
    sys.path.insert(0, str(ROOT / "examples"))
    from history_checkpoints import rebuild

    return rebuild(name, out)
