"""What ``spinal audit`` does with a server, and the exit code that a release pipeline reads."""

import re
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

from spinal.cli.following import Interrupts, followed, submitted
from spinal.cli.gate import exit_code
from spinal.cli.output import Shown, say, target, write_atomically
from spinal.cli.pipeline import tell_github, web_address
from spinal.cli.progress import in_queue
from spinal.client import Client, error_of
from spinal.documents.comparison import Comparison
from spinal.documents.policy import Policy
from spinal.documents.schemas import parse
from spinal.documents.trace import Trace
from spinal.errors import ExitCode, UsageError

DURATION = re.compile(r"^(\d+(?:\.\d+)?)(s|m|h)?$")
SECONDS = {"s": 1, "m": 60, "h": 3600, None: 1}


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``30m`` or ``2h``; raises UsageError."""
    found = DURATION.match(text)
    if found is None:
        raise UsageError(f"--wait {text!r} is not a duration", hint="for example 90s, 30m or 2h")
    return float(found[1]) * SECONDS[found[2]]


def run_audit(
    client: Client,
    candidate: str,
    reference: str | None,
    *,
    control: str | None,
    prompt_set: str | None,
    profile: dict[str, Any],
    policy: Policy | str | None,
    signature: str | None = None,
    labels: dict[str, str],
    deadline: float | None,
    interrupts: Interrupts,
    shown: Shown,
) -> tuple[dict[str, Any], ExitCode]:
    """Submit, wait when asked (until ``deadline`` of the monotonic clock), write the reports asked for; returns the
    audit and the exit code. A policy that is no name is stored on the server first."""
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    with nullcontext() if left is None else client.trying_for(left):
        named = client.push_policy(policy.spelled_out())["digest"] if isinstance(policy, Policy) else policy
        # Sent again after an outage, or to learn what became of it, this key makes no second audit.
        submit = partial(
            client.submit, candidate, reference, control=control, prompt_set=prompt_set, profile=profile or None,
            policy=named, signature=signature, labels=labels or None, idempotency_key=str(uuid4()),
        )  # fmt: skip
        audit = submitted(client, submit, interrupts)
    say(f"audit {audit['id']} {audit['state']}")
    if deadline is None:
        if (stands := in_queue(audit)) is not None:
            say(stands)
        return audit, ExitCode.PASS
    audit = followed(client, audit, deadline, interrupts)
    return audit, ended(client, audit, shown)


def ended(client: Client, audit: dict[str, Any], shown: Shown) -> ExitCode:
    """Write the reports of an audit that has ended; its exit code. Raises the error of one that failed."""
    if audit["state"] == "FAILED":
        raise error_of(audit["error"] or {"code": "audit_failed", "detail": f"audit {audit['id']} failed"})
    if audit["state"] == "CANCELLED":
        return ExitCode.NOT_EVALUATED
    write_reports(client, audit["id"], shown)
    return exit_code(audit["verdict"], shown.fail_on)


def write_reports(client: Client, audit_id: str, shown: Shown) -> None:
    """Write the reports asked for, as the service renders them, and tell GitHub where that was asked for."""
    address = web_address(f"{client.base_url}/ui/audits/{audit_id}/report")
    links = {} if address is None else {"report": address}
    for asked in shown.outputs:
        made, path = target(asked)
        if made.needs_link and links:
            # The service knows its own address only where an operator has said it; here it is known.
            text = made.written(_document(client, audit_id), replace(shown, links=links).reader)
        else:
            text = client.report(audit_id, made.name, fail_on=shown.fail_on)
        write_atomically(path, text)
        say(f"wrote {path}")
    if shown.github:
        tell_github(_document(client, audit_id), replace(shown, links=links))


def _document(client: Client, audit_id: str) -> Trace | Comparison:
    document = parse(client.report(audit_id), f"the report of audit {audit_id}")
    assert isinstance(document, Trace | Comparison)
    return document
