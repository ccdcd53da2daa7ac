"""``spinal list``, ``show``, ``wait``, ``cancel`` and ``link``: audits that a service has. Nothing is measured here."""

import re
import time
from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

import typer

from spinal.cli.following import Interrupts, followed
from spinal.cli.gate import fails_on
from spinal.cli.labels import read_labels
from spinal.cli.options import CancelOnInterrupt, FailOn, GitHub, Outputs
from spinal.cli.output import Shown, check_outputs, say, say_json
from spinal.cli.pipeline import check_pipeline, failures_told, tell_cancelled
from spinal.cli.progress import in_queue
from spinal.cli.remote import ended, parse_duration
from spinal.cli.server import DEFAULT_SERVER, ApiKey, AsJson, Server, at, connected, print_table
from spinal.errors import UsageError

STATES = ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")
VERDICTS = ("pass", "warn", "fail", "inconclusive")
MOST_A_PAGE = 200
LONGEST_NAME = 200
"""Characters of the name of one side where a report says what was not judged."""
LIFETIME = re.compile(r"(\d{1,6})(m|h|d)\Z", re.ASCII)
SECONDS = {"m": 60, "h": 3600, "d": 86_400}
Audit = Annotated[str, typer.Argument(metavar="AUDIT", help="Id of an audit, as `spinal list` shows it.")]


def show_all(
    state: Annotated[str | None, typer.Option(help="Only those in this state.", metavar="|".join(STATES))] = None,
    verdict: Annotated[
        str | None, typer.Option(help="Only those with this verdict.", metavar="|".join(VERDICTS))
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="key=value that they have; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those of this candidate, reference or control.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_A_PAGE, help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the list before ended: its next.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List audits, newest first."""
    state = _one_of("--state", state and state.upper(), STATES)
    verdict = _one_of("--verdict", verdict and verdict.lower(), VERDICTS)
    if everything and cursor is not None:
        raise UsageError("--all and --cursor are both given", hint="leave one of them out")
    filters = {
        "state": state,
        "verdict": verdict,
        "model": model,
        "label": [f"{key}:{value}" for key, value in read_labels(label).items()] or None,
    }
    given = {name: value for name, value in filters.items() if value is not None}
    with connected(server, api_key) as client:
        if everything:
            items, following = list(client.audits(**given, limit=MOST_A_PAGE)), None
        else:
            page = client.audits_page(**given, limit=limit, **({"cursor": cursor} if cursor else {}))
            items, following = page["items"], page["next"]
    if as_json:
        say_json({"items": items, "next": following})
        return
    rows = [
        (one["id"], one["state"], one["verdict"] or "-", _moment(one["created_at"]), _pair(one, 60)) for one in items
    ]
    columns = ("audit", "state", "verdict", "submitted")
    print_table((*columns, "what"), rows, whole=columns)
    if following is not None:
        say(f"there are more: `spinal list --cursor {following}{at(server)}`")


def show(audit: Audit, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show an audit: where it stands, its verdict with the reasons, why it failed, what was made."""
    named = id_of(audit)
    with connected(server, api_key) as client:
        found = client.audit(named)
    if as_json:
        say_json(found)
        return
    for name, value in _described(found):
        say(f"{name + ':':<12}{value}", to_stdout=True)


def wait(
    audit: Audit,
    wait: Annotated[str, typer.Option(help="Wait so long for the end, for example 30m.")] = "1h",
    fail_on: FailOn = "fail",
    cancel_on_interrupt: CancelOnInterrupt = False,
    github: GitHub = False,
    output: Outputs = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Wait for an audit. Exit 0 pass or warn, 1 fail, 3 not evaluated, 4 timed out, 5 inconclusive."""
    from spinal.cli.told import audit_in_a_few_lines

    outputs = output or []
    check_outputs(outputs)
    check_pipeline(outputs, github=github)
    named, wait_s = id_of(audit), parse_duration(wait)
    shown = Shown(as_json=as_json, outputs=outputs, github=github, fail_on=fails_on(fail_on))
    deadline = time.monotonic() + wait_s
    interrupts = Interrupts(server, cancel_on_interrupt)
    with connected(server, api_key) as client:
        with failures_told(shown, f"audit {named}"), client.trying_for(wait_s), interrupts.told(client, named):
            found = client.audit(named)
        check_outputs(outputs, verdict=found.get("reference") is not None)
        subject = _pair(found, LONGEST_NAME)
        with failures_told(shown, subject):
            found = followed(client, found, deadline, interrupts)
            code = ended(client, found, shown)
            told = () if as_json else audit_in_a_few_lines(client, found, server)
    tell_cancelled(shown, found, subject)
    if as_json:
        say_json(found)
    for line in told:
        say(line, to_stdout=True)
    raise typer.Exit(code)


def cancel(audit: Audit, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Cancel an audit. One that has ended stays as it is, and is told."""
    named = id_of(audit)
    with connected(server, api_key) as client:
        found = client.cancel(named)
    if as_json:
        say_json(found)
    else:
        say(f"audit {found['id']} {found['state']}", to_stdout=True)


def link(
    audit: Audit,
    expires: Annotated[str, typer.Option(metavar="7d", help="How long it opens the report; at most 90d.")] = "7d",
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a link that opens the report of an audit in a browser, without a key. Whoever has it reads the report."""
    named, given = id_of(audit), LIFETIME.match(expires)
    if given is None:
        raise UsageError(f"--expires {expires!r} is not a duration", hint="for example 30m, 12h or 7d")
    with connected(server, api_key) as client:
        found = client.link(named, expires_in=int(given[1]) * SECONDS[given[2]])
    if as_json:
        say_json(found)
    else:
        say(found["url"], to_stdout=True)


def alone(command: Callable[..., None]) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return app


COMMANDS = {
    "list": alone(show_all), "show": alone(show), "wait": alone(wait), "cancel": alone(cancel),
    "link": alone(link),
}  # fmt: skip
"""Name -> the application that is this command."""


def _described(audit: dict[str, Any]) -> list[tuple[str, str]]:
    progress, error = audit["progress"], audit.get("error") or {}
    lines = [
        ("audit", audit["id"]),
        ("candidate", audit.get("candidate") or "-"),
        ("reference", audit.get("reference") or "-"),
        ("state", f"{audit['state']} ({progress['phase']}, {progress['fraction']:.0%})"),
        *(("queue", stands) for stands in (in_queue(audit),) if stands is not None),
        ("verdict", audit["verdict"] or "-"),
        *(("", reason) for reason in audit.get("verdict_reasons", ())),
        ("submitted", _moment(audit.get("created_at"))),
        ("ended", _moment(audit.get("finished_at"))),
    ]
    lines += [("label", f"{key}={value}") for key, value in (audit.get("labels") or {}).items()]
    lines += [(role, digest) for role, digest in (audit.get("results") or {}).items()]
    if error:
        lines += [("error", f"{error.get('code')}: {error.get('detail')}"), ("next", error.get("hint") or "-")]
    return [(name, value) if name else (" ", value) for name, value in lines]


def id_of(given: str) -> str:
    try:
        return str(UUID(given.strip()))
    except ValueError:
        raise UsageError(f"{given[:80]!r} is not the id of an audit", hint="`spinal list` shows them") from None


def _one_of(option: str, given: str | None, known: tuple[str, ...]) -> str | None:
    if given is not None and given not in known:
        raise UsageError(f"{option} {given[:80]!r} is not known", hint=f"one of {', '.join(known)}")
    return given


def _pair(audit: dict[str, Any], most: int) -> str:
    """What was compared; names that are too long lose their beginning, which others of a list share."""
    names = [audit.get(role) for role in ("reference", "candidate")]
    return " → ".join(name if len(name) <= most else "…" + name[1 - most :] for name in names if name)


def _moment(text: str | None) -> str:
    return "-" if text is None else text[:19].replace("T", " ") + "Z"
