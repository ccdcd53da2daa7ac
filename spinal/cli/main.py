"""Entry point of ``spinal``: commands, options, exit codes."""

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from spinal.checkpoints.sources import reference_forms
from spinal.cli.endings import explained, stopped_code
from spinal.cli.gate import exit_code, fails_on, policy_for_server, read_gate
from spinal.cli.knobs import profile_members, read_knobs
from spinal.cli.labels import read_labels
from spinal.cli.operators import CommandsAndOperators
from spinal.cli.output import Shown, check_outputs, emit, on_terminal, report_error, say, say_json, show
from spinal.cli.pipeline import (
    GitHub,
    Outputs,
    check_pipeline,
    failures_told,
    pipeline_links,
    tell_cancelled,
    tell_github,
)
from spinal.cli.server import DEFAULT_SERVER, ApiKey, Server, connected
from spinal.cli.signals import Stopped, raise_on_signals
from spinal.errors import DocumentInvalid, ExitCode, SpinalError, UsageError
from spinal.policy.shipped import DEFAULT_POLICY, OURS
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import DEFAULT_SET
from spinal.version import VERSION

NOTHING_WRITTEN = "nothing was written"
WRITES_AT_ITS_END = frozenset({"trace", "compare", "report"})
"""Commands that have written nothing when they are interrupted; others may have had an effect elsewhere."""

app = typer.Typer(
    cls=CommandsAndOperators,
    help="Audits what alignment did inside a language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
DEFAULTS = {knob: str(value) for knob, value in MeasurementProfile().model_dump().items()}
"""What a knob is when none is given, for help texts."""
SET_OR_THE_TRACES = f"{DEFAULT_SET}, or the set that a trace was measured on"
Prompts = Annotated[
    str,
    typer.Option(
        "--prompts",
        help="Text (one prompt a line), JSON lines or a JSON list (prompts, chats, hh-rlhf pairs), CSV with a header, "
        "Parquet (gzip accepted), or a built-in set.",
    ),
]
ComparePrompts = Annotated[
    str | None,
    typer.Option("--prompts", help="As for trace.", show_default=SET_OR_THE_TRACES),
]
AsJson = Annotated[bool, typer.Option("--json", help="The document in JSON on stdout; errors as objects on stderr.")]
PolicyName = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="The rules of the verdict: a file (YAML or JSON), or the name of one that ships.",
        show_default=DEFAULT_POLICY,
    ),
]
JudgedBy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="Judge a comparison again under these rules: a file (YAML or JSON), or the name of one that ships.",
        show_default="the verdict that it carries",
    ),
]
FailOn = Annotated[
    str, typer.Option("--fail-on", help="The mildest outcome that exits with 1: fail or warn.", metavar="fail|warn")
]
FailOnStored = Annotated[
    str | None,
    typer.Option(
        "--fail-on",
        help="Exit by the verdict: with 1 from this outcome on, fail or warn.",
        metavar="fail|warn",
        show_default="fail where a verdict is made again, else exit 0",
    ),
]
Former = Annotated[
    Path | None,
    typer.Option(help="A comparison in JSON: what rules on former. values are read against."),
]
Brief = Annotated[bool, typer.Option("--brief", help="The verdict, its reason and where the change sits; no tables.")]
Device = Annotated[str, typer.Option(help="torch device, for example cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of tensor operations.")]
MaxTokens = Annotated[
    int | None, typer.Option(help="Tokens kept of each prompt, from its end.", show_default=DEFAULTS["max_tokens"])
]
LensPositions = Annotated[
    str | None,
    typer.Option(help="Positions per prompt read by the lens, or 'full'.", show_default=DEFAULTS["lens_positions"]),
]
Dtype = Annotated[str | None, typer.Option(help="float32 or checkpoint.", show_default=DEFAULTS["dtype"])]
BatchSize = Annotated[int | None, typer.Option(help="Prompts per forward pass.", show_default=DEFAULTS["batch_size"])]
SwapPrompts = Annotated[
    int | None, typer.Option(help="Prompts used by block swap.", show_default=DEFAULTS["swap_prompts"])
]
StitchPrompts = Annotated[
    int | None,
    typer.Option(
        help="Prompts over which the accounts of what carries the change are drawn up; 0 leaves them out.",
        show_default=DEFAULTS["stitch_prompts"],
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        help='A profile by its name, for example spinal/1, or knobs as JSON, for example {"max_tokens": 256}.',
        show_default=DEFAULTS["name"],
    ),
]
NoiseDraws = Annotated[
    int | None,
    typer.Option(
        help="Draws of the matched-noise control, each as costly as a trace.", show_default=DEFAULTS["noise_draws"]
    ),
]
Stream = Annotated[
    bool, typer.Option("--stream", help="Read the blocks from disk one at a time: for weights larger than memory.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the bootstrap.", show_default=DEFAULTS["seed"])]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Neither look for traces measured before, nor keep those measured now.")
]
Base = Annotated[Path | None, typer.Option(help="Where the base of an adapter lies, whatever its configuration names.")]
Tokenizer = Annotated[Path | None, typer.Option(help="Folder whose tokenizer reads the prompts.")]


@app.command()
def trace(
    model: Annotated[str, typer.Argument(help="Checkpoint folder with safetensors weights.")],
    prompts: Prompts = DEFAULT_SET,
    base: Base = None,
    tokenizer: Tokenizer = None,
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
        model, prompts, knobs, places=Places(base, tokenizer), device=device, threads=threads, stream=stream,
        cache=not no_cache,
    )  # fmt: skip
    emit(found, Shown(as_json=as_json, outputs=output or [], brief=brief))


@app.command()
def compare(
    reference: Annotated[str, typer.Argument(help="Reference checkpoint folder, or a spinal.trace/1 JSON file.")],
    candidate: Annotated[str, typer.Argument(help="Candidate checkpoint folder, or a spinal.trace/1 JSON file.")],
    prompts: ComparePrompts = None,
    base: Base = None,
    tokenizer: Tokenizer = None,
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
            reference, candidate, prompts, knobs, control=control, places=Places(base, tokenizer), device=device,
            threads=threads, stream=stream, cache=not no_cache, gate=gate,
        )  # fmt: skip
    emit(result, shown)
    if github:
        tell_github(result, shown)
    raise typer.Exit(exit_code(result.verdict.outcome, gate.fail_on))


@app.command()
def audit(
    candidate: Annotated[str, typer.Argument(help=f"Model reference: {reference_forms()}, or a registered name.")],
    reference: Annotated[str | None, typer.Option(help="Model reference of the reference checkpoint.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    control: Annotated[str | None, typer.Option(help="Model reference of a checkpoint to contrast with.")] = None,
    prompt_set: Annotated[str | None, typer.Option(help="Built-in set, or name or digest of a stored one.")] = None,
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", help="As for compare: a file, which is stored under its name, or a built-in set."),
    ] = None,
    profile: Profile = None,
    label: Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")] = None,
    wait: Annotated[str | None, typer.Option(help="Wait so long for the end, for example 30m.")] = None,
    policy: PolicyName = None,
    fail_on: FailOn = "fail",
    cancel_on_interrupt: Annotated[
        bool, typer.Option("--cancel-on-interrupt", help="Cancel the audit when this command is interrupted.")
    ] = False,
    as_json: AsJson = False,
    brief: Brief = False,
    github: GitHub = False,
    output: Outputs = None,
) -> None:
    """Audit on a server. With --wait: exit 0 pass or warn, 1 fail, 3 not evaluated, 4 timed out, 5 inconclusive."""
    from spinal.cli.following import Interrupts
    from spinal.cli.prompts import read_pushed
    from spinal.cli.remote import parse_duration, run_audit
    from spinal.cli.told import audit_in_a_few_lines, report_of

    outputs = output or []
    check_outputs(outputs, verdict=reference is not None)
    check_pipeline(outputs, github=github)
    if (outputs or github) and wait is None:
        raise UsageError(f"{'-o' if outputs else '--github'} needs a finished audit", hint="add --wait 30m")
    shown = Shown(as_json=as_json, outputs=outputs, brief=brief, github=github, fail_on=fails_on(fail_on))
    subject = candidate if reference is None else f"{reference} → {candidate}"
    wait_s = None if wait is None else parse_duration(wait)
    pushed, made_by = read_pushed(prompts, prompt_set), policy_for_server(policy)
    labels, knobs = read_labels(label), profile_members(profile)
    deadline = None if wait_s is None else time.monotonic() + wait_s
    interrupts = Interrupts(server, cancel_on_interrupt)
    with connected(server, api_key) as client, failures_told(shown, subject):
        # The time to wait covers everything from the first request on; without it each has the usual patience.
        with nullcontext() if wait_s is None else client.trying_for(wait_s):
            prompt_set = pushed.named_at(client)
        found, code = run_audit(
            client, candidate, reference, control=control, prompt_set=prompt_set, profile=knobs, policy=made_by,
            labels=labels, deadline=deadline, interrupts=interrupts, shown=shown,
        )  # fmt: skip
        whole = report_of(client, found) if on_terminal() and not as_json else None
        told = () if as_json else audit_in_a_few_lines(client, found, server)
    tell_cancelled(shown, found, subject)
    if as_json:
        say_json(found)
    if whole is not None:
        show(whole, brief=brief)
    # The report begins with what the lines before the link say.
    for line in told if whole is None else told[-1:]:
        say(line, to_stdout=True)
    raise typer.Exit(code)


@app.command()
def report(
    document: Annotated[Path, typer.Argument(help="A spinal.trace/1 or spinal.comparison/1 JSON file.")],
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
    from spinal.documents.trace import Trace

    again = policy is not None or former is not None
    failing = fails_on("fail" if fail_on is None else fail_on)
    gate = read_gate(policy, failing, former) if again else None
    found = load(document)
    if not isinstance(found, Trace | Comparison):
        raise DocumentInvalid(f"{document}: a {found.schema_} has no report", hint="give a trace or a comparison")
    if isinstance(found, Trace):
        check_outputs(output or [], verdict=False)
    if not isinstance(found, Comparison) and (again or fail_on is not None):
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


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        say(f"spinal {VERSION}", to_stdout=True)
        raise typer.Exit


def main() -> None:
    """Run the command; every expected failure ends in one line for the cause and one for the next step."""
    as_json = "--json" in sys.argv
    unwritten = NOTHING_WRITTEN if WRITES_AT_ITS_END.intersection(sys.argv[1:2]) else None
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
