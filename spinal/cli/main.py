"""Entry point of ``spinal``: commands, options, exit codes."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from spinal.cli.audit import audit
from spinal.cli.endings import explained, stopped_code
from spinal.cli.gate import exit_code, fails_on, read_gate
from spinal.cli.knobs import read_knobs
from spinal.cli.operators import CommandsAndOperators
from spinal.cli.options import (
    AsJson,
    Base,
    BatchSize,
    Brief,
    ComparePrompts,
    Device,
    Dtype,
    FailOn,
    FailOnStored,
    Former,
    GitHub,
    JudgedBy,
    LensPositions,
    MaxTokens,
    NoCache,
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
from spinal.cli.output import Shown, check_outputs, emit, report_error, say
from spinal.cli.pipeline import check_pipeline, failures_told, pipeline_links, tell_github
from spinal.cli.series import series
from spinal.cli.signals import Stopped, raise_on_signals
from spinal.errors import DocumentInvalid, ExitCode, SpinalError, UsageError
from spinal.policy.shipped import OURS
from spinal.prompts.builtin import DEFAULT_SET
from spinal.version import VERSION

NOTHING_WRITTEN = "nothing was written"
KEPT = "what was measured is kept; run it again to go on"
UNWRITTEN = dict.fromkeys(("trace", "compare", "report"), NOTHING_WRITTEN) | {"series": KEPT}
"""Commands that write at their end, and what holds of their work when they are interrupted before; others may have had
an effect elsewhere."""

app = typer.Typer(
    cls=CommandsAndOperators,
    help="Audits what alignment did inside a language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def trace(
    model: Annotated[str, typer.Argument(help="Checkpoint folder with safetensors weights, or hf:org/name@rev.")],
    prompts: Prompts = DEFAULT_SET,
    base: Base = None,
    tokenizer: Tokenizer = None,
    sources: Sources = None,
    as_json: AsJson = False,
    brief: Brief = False,
    output: Outputs = None,
    device: Device = "cpu",
    threads: Threads = None,
    max_tokens: MaxTokens = None,
    lens_positions: LensPositions = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    profile: Profile = None,
    stream: Stream = False,
    no_cache: NoCache = False,
) -> None:
    """Measure the depth trace of one checkpoint, here, without a server."""
    from spinal.cli.local import local_trace
    from spinal.sides import Places

    check_outputs(output or [], verdict=False)
    check_pipeline(output or [], github=False)
    options = {"max_tokens": max_tokens, "lens_positions": lens_positions, "dtype": dtype, "batch_size": batch_size}
    knobs = read_knobs(options, profile)
    found = local_trace(
        model, prompts, knobs, places=Places(base, tokenizer, sources), device=device, threads=threads, stream=stream,
        cache=not no_cache,
    )  # fmt: skip
    emit(found, Shown(as_json=as_json, outputs=output or [], brief=brief))


@app.command()
def compare(
    reference: Annotated[
        str, typer.Argument(help="Reference checkpoint (folder, hf:org/name@rev), or a spinal.trace/1 file.")
    ],
    candidate: Annotated[
        str, typer.Argument(help="Candidate checkpoint (folder, hf:org/name@rev), or a spinal.trace/1 file.")
    ],
    prompts: ComparePrompts = None,
    base: Base = None,
    tokenizer: Tokenizer = None,
    sources: Sources = None,
    policy: PolicyName = None,
    fail_on: FailOn = "fail",
    former: Former = None,
    as_json: AsJson = False,
    brief: Brief = False,
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
    control: Annotated[
        str | None, typer.Option(help="What to contrast the candidate with, for example an SFT twin.")
    ] = None,
    no_cache: NoCache = False,
) -> None:
    """Compare a candidate with its reference, here, without a server. Exit 0 pass or warn, 1 fail, 5 inconclusive.

    Says what carries the change (an account of each part of the model) beside what computes something else, whether
    the model still works, and the verdict.
    Two traces are compared without their checkpoints: what needs weights is then null, and the verdict inconclusive.
    """
    from spinal.cli.local import local_compare
    from spinal.sides import Places

    links = pipeline_links()
    check_outputs(output or [], links=links)
    check_pipeline(output or [], github=github)
    gate = read_gate(policy, fail_on, former)
    shown = Shown(as_json=as_json, outputs=output or [], brief=brief, github=github, fail_on=gate.fail_on, links=links)
    options = {
        "max_tokens": max_tokens,
        "lens_positions": lens_positions,
        "dtype": dtype,
        "batch_size": batch_size,
        "swap_prompts": swap_prompts,
        "stitch_prompts": stitch_prompts,
        "noise_draws": noise_draws,
        "seed": seed,
    }
    knobs = read_knobs(options, profile)
    with failures_told(shown, f"{reference} → {candidate}"):
        result = local_compare(
            reference, candidate, prompts, knobs, control=control, places=Places(base, tokenizer, sources),
            device=device, threads=threads, stream=stream, cache=not no_cache, gate=gate,
        )  # fmt: skip
    emit(result, shown)
    if github:
        tell_github(result, shown)
    raise typer.Exit(exit_code(result.verdict.outcome, gate.fail_on))


app.command()(series)
app.command()(audit)


@app.command()
def report(
    document: Annotated[
        Path, typer.Argument(help="A spinal.trace/1, spinal.comparison/1 or spinal.series/1 JSON file.")
    ],
    policy: JudgedBy = None,
    fail_on: FailOnStored = None,
    former: Former = None,
    as_json: AsJson = False,
    brief: Brief = False,
    github: GitHub = False,
    output: Outputs = None,
) -> None:
    """Render a stored document; needs neither torch nor a server.

    With --policy or --former a comparison is judged again. With one of them, or --fail-on, the exit code is that of
    compare.
    """
    links = pipeline_links()
    check_outputs(output or [], links=links)
    check_pipeline(output or [], github=github)
    from spinal.documents.comparison import Comparison
    from spinal.documents.schemas import load
    from spinal.documents.series import Series
    from spinal.documents.trace import Trace
    from spinal.policy.series.exits import series_exit

    again = policy is not None or former is not None
    failing = fails_on("fail" if fail_on is None else fail_on)
    gate = read_gate(policy, failing, former) if again else None
    found = load(document)
    if not isinstance(found, Trace | Comparison | Series):
        raise DocumentInvalid(f"{document}: a {found.schema_} has no report", hint="give a trace or a comparison")
    if isinstance(found, Series) and again:
        raise UsageError(
            f"{document}: a series is not judged again by itself: it does not hold the comparisons of its members",
            hint="`spinal series REFERENCE DIR --policy FILE` judges it again, and measures nothing twice",
        )
    if isinstance(found, Trace):
        check_outputs(output or [], verdict=False)
    if isinstance(found, Trace) and (again or fail_on is not None):
        raise UsageError(f"{document}: a {found.schema_} is not judged", hint="give a comparison")
    if gate is not None and isinstance(found, Comparison):
        made_by = found.verdict.policy
        if policy is None and not made_by.startswith(OURS):
            # Judged by the default instead, what its own rules refuse would pass.
            raise UsageError(f"{document}: was judged by {made_by}", hint="name the rules with --policy, too")
        found = gate.judge(found)
    shown = Shown(as_json=as_json, outputs=output or [], brief=brief, github=github, fail_on=failing, links=links)
    emit(found, shown)
    if github:
        tell_github(found, shown)
    if isinstance(found, Comparison) and (again or fail_on is not None):
        raise typer.Exit(exit_code(found.verdict.outcome, failing))
    if isinstance(found, Series) and fail_on is not None:
        raise typer.Exit(series_exit(found.status, failing))


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        say(f"spinal {VERSION}", to_stdout=True)
        raise typer.Exit


def main() -> None:
    """Run the command; every expected failure ends in one line for the cause and one for the next step."""
    as_json = "--json" in sys.argv
    unwritten = UNWRITTEN.get("".join(sys.argv[1:2]))
    if unwritten == KEPT and "--no-cache" in sys.argv:
        unwritten = NOTHING_WRITTEN
    try:
        raise_on_signals(last_words=unwritten)
        code = app(standalone_mode=False, prog_name="spinal")
        sys.stdout.flush()
    except SpinalError as error:
        code = report_error(error, as_json=as_json)
    except Stopped as stopped:
        code = stopped_code(stopped, unwritten)
    except SystemExit as end:
        # The parser ends so where whoever read the output has gone: nothing was found to be wrong with a model.
        code = ExitCode.NOT_EVALUATED if end.code == 1 else end.code
    except BaseException as error:  # noqa: BLE001  the last line of defence of a command line: no traceback for users
        found = explained(error)
        # Without a word where the parser has shown the help text instead.
        code = report_error(found, as_json=as_json) if found.detail else found.exit_code
    sys.exit(int(code or 0))


if __name__ == "__main__":
    main()
