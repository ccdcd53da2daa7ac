"""``spinal audit``: against a server, with an exit code a release pipeline can read."""

import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from spinal.cli.output import Shown, say, target, write_atomically
from spinal.cli.pipeline import tell_github, web_address
from spinal.cli.progress import bar
from spinal.client import Client, error_of
from spinal.documents.diff import TraceDiff
from spinal.documents.schemas import parse
from spinal.errors import ExitCode, UsageError
from spinal.progress import Progress

DURATION = re.compile(r"^(\d+(?:\.\d+)?)(s|m|h)?$")
SECONDS = {"s": 1, "m": 60, "h": 3600, None: 1}
OUTCOMES = {
    "pass": ExitCode.PASS,
    "warn": ExitCode.PASS,
    "fail": ExitCode.FAILED,
    "inconclusive": ExitCode.INCONCLUSIVE,
}


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``30m`` or ``2h``; raises UsageError."""
    found = DURATION.match(text)
    if found is None:
        raise UsageError(f"--wait {text!r} is not a duration", hint="for example 90s, 30m or 2h")
    return float(found[1]) * SECONDS[found[2]]


@contextmanager
def watched(label: str) -> Any:
    """A callback for :meth:`Client.wait` that draws the audit's progress."""
    with bar(label) as show:

        def on_progress(audit: dict[str, Any]) -> None:
            progress = audit["progress"]
            show(Progress(progress["phase"], 0, 1, progress["fraction"]))

        callback: Callable[[dict[str, Any]], None] = on_progress
        yield callback


def run_audit(
    client: Client,
    candidate: str,
    reference: str | None,
    *,
    control: str | None,
    prompt_set: str | None,
    profile: dict[str, Any],
    labels: dict[str, str],
    wait_s: float | None,
    shown: Shown,
) -> tuple[dict[str, Any], ExitCode]:
    """Submit, wait when asked, write the reports asked for; returns the audit and the exit code."""
    audit = client.submit(
        candidate, reference, control=control, prompt_set=prompt_set, profile=profile or None, labels=labels or None
    )
    say(f"audit {audit['id']} {audit['state']}")
    if wait_s is None:
        return audit, ExitCode.PASS
    with watched(candidate) as on_progress:
        audit = client.wait(audit["id"], timeout=wait_s, every=1.0, on_progress=on_progress)
    if audit["state"] == "FAILED":
        raise error_of(audit["error"])
    if audit["state"] == "CANCELLED":
        return audit, ExitCode.NOT_EVALUATED
    write_reports(client, audit["id"], shown)
    return audit, OUTCOMES.get(audit["verdict"], ExitCode.PASS)


def write_reports(client: Client, audit_id: str, shown: Shown) -> None:
    """Write the reports asked for, as the service renders them, and tell GitHub where that was asked for."""
    for asked in shown.outputs:
        made, path = target(asked)
        write_atomically(path, client.report(audit_id, made.name, fail_on=shown.fail_on))
        say(f"wrote {path}")
    if shown.github:
        address = web_address(f"{client.base_url}/v1/audits/{audit_id}/report?format=html")
        links = {} if address is None else {"report": address}
        document = parse(client.report(audit_id), f"the report of audit {audit_id}")
        assert not isinstance(document, TraceDiff)
        tell_github(document, replace(shown, links=links))
