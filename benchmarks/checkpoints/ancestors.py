"""The ancestors, and everything that is built and judged beside each of them."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.checkpoints import train
from benchmarks.checkpoints.known import KNOWN, Truth, make, soup
from benchmarks.checkpoints.pairs import Pair, read_pairs

ROOT = Path(__file__).resolve().parents[2]
HISTORY: dict[str, Truth] = {
    "dpo-short": "good",
    "sft-twin": "good",
    "dpo-overoptimised": "bad",
    "dpo-broken": "bad",
}
"""Fine-tunes of the bundled ancestor that ship with the repository."""
TRAINED_HERE = ("dpo-second-seed", "early-stop", "dpo-flipped")
"""Those that are trained on top of them."""
SMOLLM2: dict[str, Truth] = {"dpo-short": "good", "dpo-short-bf16": "good", "sft-twin": "good", "dpo-flipped": "bad"}


@dataclass(frozen=True)
class Case:
    """One checkpoint that is judged."""

    name: str
    truth: Truth
    make: Callable[[Path], Path]
    """Writes it below a folder, or finds it, and gives its path."""
    temporary: bool = True
    """Whether it was made for the occasion and may be removed."""


@dataclass(frozen=True)
class Ancestor:
    """A reference, what is made of it, and held-out pairs for the prompts."""

    name: str
    reference: Path
    cases: tuple[Case, ...]
    held_out: tuple[Pair, ...]


def ancestor(
    name: str, work: Path, source: Path | None, usual: Callable[[Path], list[str]], foreign: list[str]
) -> Ancestor:
    """Build ancestor ``name`` (``bundled``, ``gpt2``, ``neox`` or ``smollm2``) in the folder ``work``, where what was
    trained before is found again. ``usual`` gives the texts that an audit reads, for a tokenizer's folder."""
    _, held_out = read_pairs(source)
    trained = dict(_fine_tunes(name, work, source))
    reference = _reference(name, work)
    texts = usual(reference)
    cases = [
        Case(one, known.truth, lambda out, one=one: make(one, reference, out / one, texts, foreign))  # type: ignore[misc]  # bound now
        for one, known in KNOWN.items()
    ]
    cases += [
        Case(one, truth, lambda _out, folder=folder: folder, temporary=False)
        for one, (truth, folder) in trained.items()
    ]  # type: ignore[misc]  # bound now
    healthy = [folder for one, (truth, folder) in trained.items() if one in ("dpo-short", "sft-twin")]
    if len(healthy) == 2:
        cases.append(Case("soup", "good", lambda out: soup(healthy[0], healthy[1:], out / "soup")))
    return Ancestor(name, reference, tuple(cases), tuple(held_out))


def _reference(name: str, work: Path) -> Path:
    return {"bundled": train.BUNDLED, "smollm2": work / "instruct"}.get(name, work / "sft")


def _fine_tunes(name: str, work: Path, source: Path | None) -> Iterator[tuple[str, tuple[Truth, Path]]]:
    """Names, truths and folders of what was trained from the ancestor; what is missing is trained, SmolLM2's apart."""
    if name == "smollm2":
        for one, truth in SMOLLM2.items():
            if (work / one).exists():
                yield one, (truth, work / one)
        return
    train.train_all(name, work, source, TRAINED_HERE if name == "bundled" else None)
    if name == "bundled":
        sys.path.insert(0, str(ROOT / "examples"))
        from history_checkpoints import rebuild

        for one, truth in HISTORY.items():
            yield one, (truth, work / one if (work / one).exists() else rebuild(one, work))
    for one in TRAINED_HERE if name == "bundled" else train.RECIPES:
        yield one, (train.RECIPES[one].truth, work / one)
