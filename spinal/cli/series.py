"""``spinal series``: when a training run begins to destabilise, measured in this process, without a server."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spinal.cli.gate import fails_on
from spinal.cli.knobs import read_knobs
from spinal.cli.labels import read_labels
from spinal.cli.options import (
    AsJson,
    Base,
    BatchSize,
    Device,
    Dtype,
    GitHub,
    LensPositions,
    MaxTokens,
    NoiseDraws,
    Outputs,
    PolicyName,
    Profile,
    Prompts,
    Seed,
    Sources,
    StitchPrompts,
    Stream,
    SwapPrompts,
    Threads,
    Tokenizer,
)
from spinal.cli.output import Shown, check_outputs, emit, say
from spinal.cli.pipeline import check_pipeline, failures_told, pipeline_links, tell_github
from spinal.cli.progress import Watch
from spinal.cli.signals import Stopped, said
from spinal.prompts.builtin import DEFAULT_SET

if TYPE_CHECKING:
    from spinal.documents.series import Series
    from spinal.local_series import Plan
    from spinal.sides import Places


Checkpoints = Annotated[
    list[str],
    typer.Argument(
        metavar="DIR|CKPT...",
        help="A folder that holds checkpoint-N, as the Hugging Face trainer saves; or checkpoints one by one, whose "
        "names end in their step, or STEP=PATH, or STEP=hf:org/name@rev.",
    ),
]
FailOnSeries = Annotated[
    str,
    typer.Option(
        "--fail-on", help="What exits with 1: fail for damage alone, warn for early warning, too.", metavar="fail|warn"
    ),
]
PlateauFrom = Annotated[
    int | None,
    typer.Option(min=0, help="First step of a plateau that you approve: from there on slow drift is looked for, too."),
]
Labels = Annotated[list[str] | None, typer.Option(help="key=value to keep in the document; may be repeated.")]
BriefSeries = Annotated[bool, typer.Option("--brief", help="The status, its sentences and the plot; no table.")]
NothingKept = Annotated[
    bool, typer.Option("--no-cache", help="Neither look for what was measured before, nor keep what is measured now.")
]


def series(
    reference: Annotated[str, typer.Argument(help="Checkpoint that the run began from, or another one.")],
    checkpoints: Checkpoints,
    prompts: Prompts = DEFAULT_SET,
    base: Base = None,
    tokenizer: Tokenizer = None,
    sources: Sources = None,
    policy: PolicyName = None,
    fail_on: FailOnSeries = "fail",
    plateau_from: PlateauFrom = None,
    label: Labels = None,
    as_json: AsJson = False,
    brief: BriefSeries = False,
    github: GitHub = False,
    output: Outputs = None,
    device: Device = "cpu",
    threads: Threads = None,
    max_tokens: MaxTokens = None,
    lens_positions: LensPositions = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    swap_prompts: SwapPrompts = None,
    stitch_prompts: StitchPrompts = None,
    noise_draws: NoiseDraws = None,
    seed: Seed = None,
    profile: Profile = None,
    stream: Stream = False,
    no_cache: NothingKept = False,
) -> None:
    """Say when a training run begins to destabilise, here, without a server. Exit 0 healthy or watch, 1 destabilised,
    5 inconclusive or too short.

    Every checkpoint is compared with the reference. What was measured is kept: a second run measures nothing, and a
    checkpoint more only itself.
    """
    from spinal.policy.series.exits import series_exit
    from spinal.sides import Places

    failing, links = fails_on(fail_on), pipeline_links()
    check_outputs(output or [], links=links)
    check_pipeline(output or [], github=github)
    shown = Shown(as_json=as_json, outputs=output or [], brief=brief, github=github, fail_on=failing, links=links)
    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "lens_positions": lens_positions,
        "dtype": dtype,
        "batch_size": batch_size,
        "swap_prompts": swap_prompts,
        "stitch_prompts": stitch_prompts,
        "noise_draws": noise_draws,
        "seed": seed,
    }
    asked = _Asked(reference, checkpoints, prompts, read_knobs(options, profile), policy, plateau_from,
                   read_labels(label), Places(base, tokenizer, sources))  # fmt: skip
    with failures_told(shown, f"{reference} → {', '.join(checkpoints)}"):
        result = _measured(asked, device, threads, stream=stream, cache=not no_cache, quiet=as_json)
    emit(result, shown)
    if github:
        tell_github(result, shown)
    raise typer.Exit(series_exit(result.status, failing))


@dataclass(frozen=True)
class _Asked:
    """What a series is asked for."""

    reference: str
    checkpoints: list[str]
    prompts: str
    knobs: dict[str, Any]
    policy: str | None
    plateau_from: int | None
    labels: dict[str, str]
    places: "Places"


def _measured(asked: _Asked, device: str, threads: int | None, *, stream: bool, cache: bool, quiet: bool) -> "Series":
    """The series, with what is to be done and how far it is told; with ``quiet`` the bar alone."""
    from spinal.local_series import Told, series_here
    from spinal.machine import Machine

    machine = Machine(device, threads, stream, cache, Watch(whole=True), ["spinal", *sys.argv[1:]])
    far = _Far(kept=cache)

    def plan(known: "Plan") -> None:
        far.known, far.done = known.members, known.kept
        if not quiet:
            _say_plan(known)

    with far.told():
        return series_here(
            asked.reference, asked.checkpoints, asked.prompts, asked.knobs, machine, policy=asked.policy,
            plateau_from=asked.plateau_from, labels=asked.labels, places=asked.places,
            told=Told(plan=plan, measured=far.one_more),
        )  # fmt: skip


class _Far:
    """How far a series is, for whoever interrupts it."""

    def __init__(self, *, kept: bool) -> None:
        self._kept = kept
        self.known, self.done = 0, 0

    def one_more(self, step: int) -> None:
        self.done += 1

    @contextmanager
    def told(self) -> Iterator[None]:
        """Say what is left of the work where a signal ends it."""
        try:
            yield
        except Stopped as stopped:
            say(f"{stopped.word}; {self._words()}")
            stopped.told = True
            said.set()
            raise

    def _words(self) -> str:
        if not self._kept:
            return "nothing is kept (--no-cache)"
        if not self.known:
            return "nothing was measured yet"
        return f"{self.done} of {self.known} checkpoints are measured and kept; run it again to go on"


def _say_plan(known: "Plan") -> None:
    parts = [f"{known.to_measure} to measure"]
    if known.kept:
        parts.insert(0, f"{known.kept} measured before")
    many = "1 checkpoint" if known.members == 1 else f"{known.members} checkpoints"
    say(f"{many}: {', '.join(parts)}")
    for step, reason in known.failed:
        say(f"step {step} cannot be measured: {reason}")
    for remark in known.remarks:
        say(remark)
