"""``spinal audit``: its options, and what it says."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from spinal.checkpoints.sources import reference_forms
from spinal.cli.gate import fails_on, policy_for_server
from spinal.cli.knobs import profile_members
from spinal.cli.labels import read_labels
from spinal.cli.options import AsJson, Brief, CancelOnInterrupt, FailOn, GitHub, Outputs, PolicyName, Profile
from spinal.cli.output import Shown, check_outputs, on_terminal, say, say_json, show
from spinal.cli.pipeline import check_pipeline, failures_told, tell_cancelled
from spinal.cli.server import DEFAULT_SERVER, ApiKey, Server, connected
from spinal.errors import UsageError

MOST_SIGNATURE = 2**20
"""Bytes, as of every request."""


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
    signature: Annotated[
        Path | None, typer.Option(help="model.sig (OpenSSF Model Signing) that the candidate's files are held to.")
    ] = None,
    profile: Profile = None,
    label: Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")] = None,
    wait: Annotated[str | None, typer.Option(help="Wait so long for the end, for example 30m.")] = None,
    policy: PolicyName = None,
    fail_on: FailOn = "fail",
    cancel_on_interrupt: CancelOnInterrupt = False,
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
    signed = None if signature is None else _signature(signature)
    deadline = None if wait_s is None else time.monotonic() + wait_s
    interrupts = Interrupts(server, cancel_on_interrupt)
    with connected(server, api_key) as client, failures_told(shown, subject):
        # The time to wait covers everything from the first request on; without it each has the usual patience.
        with nullcontext() if wait_s is None else client.trying_for(wait_s):
            prompt_set = pushed.named_at(client)
        found, code = run_audit(
            client, candidate, reference, control=control, prompt_set=prompt_set, profile=knobs, policy=made_by,
            signature=signed,            labels=labels, deadline=deadline, interrupts=interrupts, shown=shown,
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


def _signature(path: Path) -> str:
    """The bundle in a file; what it says is the service's to judge."""
    try:
        with path.open("rb") as stream:
            found = stream.read(MOST_SIGNATURE + 1)
        text = found.decode("utf-8")
    except OSError as error:
        raise UsageError(f"--signature {path}: {error.strerror or error}", hint="give the file model.sig") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--signature {path}: it is not text", hint="give the file model.sig") from error
    if len(found) > MOST_SIGNATURE:
        raise UsageError(f"--signature {path}: it is larger than a signature", hint="give the file model.sig")
    return text
