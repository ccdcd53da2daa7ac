"""Runs that were trained and audited, kept as files: judging them again computes nothing.

KEEP/trained/KIND-SEED are the runs (``examples/series/train.py``), KEEP/runs/KIND-SEED.json says what is known of one
and which comparisons are its members, KEEP/comparisons/DIGEST.json.gz are these, by the digest of the weights: runs of
one seed are the same up to the break, and audited once.
"""

import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinal.audit import Ports, TemporaryCaptures, Traced, compare_traces, trace_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.comparison import ComparisonContent
from spinal.policy.series import Member
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet

if TYPE_CHECKING:
    from series.texts import Texts

PROFILE = MeasurementProfile(
    max_tokens=48,
    lens_positions=2,
    swap_prompts=8,
    stitch_prompts=16,
    stitch_tokens=8,
    pair_tokens=40,
    greedy_prompts=0,
    bootstrap_draws=200,
)
"""Light: 28 English and 20 German prompts, the margin over 16 pairs, no greedy answers."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run with what is known of it."""

    kind: str
    seed: int
    break_after: int | None
    """The last step before the break, where one is known."""
    steps: tuple[int, ...]
    held_out: tuple[dict[str, list[float]], ...]
    """Nats a token of held-out texts at each step, by language: none of them is in the prompts of an audit."""
    members: tuple[Member, ...]


def make(keep: Path, kind: str, seed: int, texts: "Texts") -> None:
    """Train and audit what is not there yet."""
    # Here, since what judges the files alone needs no torch.
    from series.train import read_history, train

    written = keep / "runs" / f"{kind}-{seed}.json"
    if written.exists():
        return
    folder = train(keep / "trained", kind, seed, texts)
    history = read_history(folder)
    checkpoints = [folder / f"checkpoint-{each['step']}" for each in history["held_out"]]
    digests = [hashlib.sha256((each / "model.safetensors").read_bytes()).hexdigest() for each in checkpoints]
    with tempfile.TemporaryDirectory(prefix="spinal-series-") as temporary:
        ports = Ports(captures=TemporaryCaptures(Path(temporary)))
        reference: Traced | None = None
        for checkpoint, digest in zip(checkpoints, digests, strict=True):
            if _place(keep, digest).exists():
                continue
            reference = reference or _traced(keep / "trained" / "start", texts.audited, ports)
            candidate = _traced(checkpoint, texts.audited, ports)
            found = compare_traces(reference, candidate, PROFILE, ports=ports, prompts=texts.audited)
            candidate.capture.unlink()
            _write(_place(keep, digest), gzip.compress(found.model_dump_json(exclude={"verdict"}).encode(), mtime=0))
    _write(written, json.dumps(history | {"comparisons": digests}).encode())


def read_runs(keep: Path, names: Sequence[str] | None = None) -> Iterator[Run]:
    """Every run that was audited to its end, by kind and seed; or those of some names."""
    paths = sorted((keep / "runs").glob("*.json")) if names is None else [keep / "runs" / f"{n}.json" for n in names]
    for path in paths:
        yield _run(json.loads(path.read_text(encoding="utf-8")), keep)


def _run(held: dict[str, Any], keep: Path) -> Run:
    steps = tuple(each["step"] for each in held["held_out"])
    return Run(
        kind=held["kind"],
        seed=held["seed"],
        break_after=held["break_after"],
        steps=steps,
        held_out=tuple(each["nll"] for each in held["held_out"]),
        members=tuple(
            Member(step=step, model=f"checkpoint-{step}", state="measured", content=_read(_place(keep, digest)))
            for step, digest in zip(steps, held["comparisons"], strict=True)
        ),
    )


def _traced(folder: Path, prompts: PromptSet, ports: Ports) -> Traced:
    return trace_checkpoint(resolve_reference(str(folder), roots=None), prompts, PROFILE, ports=ports)


def _place(keep: Path, digest: str) -> Path:
    return keep / "comparisons" / f"{digest}.json.gz"


def _read(path: Path) -> ComparisonContent:
    return ComparisonContent.model_validate_json(gzip.decompress(path.read_bytes()))


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: a run that is stopped goes on where it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)
