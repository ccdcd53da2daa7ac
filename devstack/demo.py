"""The demonstration: audit the bundled pair through the real HTTP API and show where the change sits."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from devstack.stack import Stack
from spinal.client import TERMINAL, Client, error_of
from spinal.documents.comparison import Comparison
from spinal.errors import DeadlineExceeded
from spinal.report.formats.terminal import print_document

REFERENCE, CANDIDATE = "local:sft", "local:dpo-short"
PROMPT_SET = "hh-harmless-128"
# Shorter than the defaults so that two cores show a real result within seconds; every knob is in the report.
PROFILE = {"max_tokens": 96, "swap_prompts": 64}
STALLED_S = 300.0
"""Importing torch from a cold disk is the longest that an audit stands still while all is well."""
QUIET_S = 30.0
ASK_EVERY_S = 0.4


def audit_bundled_pair(stack: Stack, report_path: Path, console: Console) -> bool:
    """Submit, watch, print, write the report; False when the audit did not succeed."""
    with Client(stack.url, stack.api_key) as client:
        audit = client.submit(CANDIDATE, REFERENCE, prompt_set=PROMPT_SET, profile=PROFILE, labels={"purpose": "demo"})
        console.print(f"POST {stack.url}/v1/audits  {REFERENCE} -> {CANDIDATE}  => audit {audit['id']}")
        audit = _watch(client, audit["id"], stack, console)
        if audit["state"] != "SUCCEEDED":
            problem = error_of(audit["error"]) if audit["error"] else None
            console.print(f"[red]audit {audit['state']}[/red] {problem.detail if problem else ''}")
            return False
        document = Comparison.model_validate_json(client.report(audit["id"], "json"))
        report_path.parent.mkdir(parents=True, exist_ok=True)
        report_path.write_text(client.report(audit["id"], "html"), encoding="utf-8")
    if sys.stdout.isatty():
        print_document(document, console)
    else:
        # Without a terminal there is no width to respect; wide tables would be folded into columns of letters.
        print_document(document, Console(file=sys.stdout, width=140))
    console.print(f"report: {report_path}")
    return True


def _watch(client: Client, audit_id: str, stack: Stack, console: Console) -> dict[str, Any]:
    """Progress until the end: a bar on a terminal, a line for every phase elsewhere."""
    console.print(f"waiting until it has ended, or nothing has moved for {STALLED_S:.0f} s")

    def sign_of_life() -> str:
        # In the order that tells the truth: a worker that has just died is started again here.
        alive = stack.child("worker").alive()
        stack.keep_up(console.print)
        return f"worker {'alive' if alive else 'started again'} (process {stack.child('worker').pid})"

    if not console.is_terminal:
        return wait_for_end(client, audit_id, sign_of_life, Lines(console.print))
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("queued", total=1.0)

        def draw(audit: dict[str, Any], still_s: float, life: str) -> None:
            progress = audit["progress"]
            still = f", nothing new for {still_s:.0f} s" if still_s > QUIET_S else ""
            text = f"{audit['state']}: {progress['phase']}{still}; {life}"
            bar.update(task, completed=progress["fraction"], description=text)

        return wait_for_end(client, audit_id, sign_of_life, draw)


class Lines:
    """A line for every phase, and one now and then while nothing moves."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._started = clock()
        self._phase = ""
        self._told_s = 0.0

    def __call__(self, audit: dict[str, Any], still_s: float, life: str) -> None:
        progress = audit["progress"]
        moved = progress["phase"] != self._phase
        if still_s < self._told_s:
            self._told_s = 0.0
        if not moved and still_s - self._told_s < QUIET_S:
            return
        self._phase, self._told_s = progress["phase"], still_s
        still = "" if moved else f"; nothing new for {still_s:.0f} s"
        elapsed = self._clock() - self._started
        self._tell(f"{elapsed:5.1f} s  {progress['fraction']:4.0%}  {audit['state']}: {self._phase}{still}; {life}")


def wait_for_end(
    client: Client,
    audit_id: str,
    sign_of_life: Callable[[], str],
    show: Callable[[dict[str, Any], float, str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """The audit once it has ended, however long that takes, as long as something moves.

    ``show`` gets every answer, the seconds since its state or progress last changed, and the worker's sign of life.
    Raises DeadlineExceeded when nothing changed for ``STALLED_S``.
    """
    before, moved = None, clock()
    while True:
        audit = client.audit(audit_id, wait=ASK_EVERY_S)
        now = (audit["state"], audit["progress"])
        if now != before:
            before, moved = now, clock()
        still = clock() - moved
        life = sign_of_life()
        show(audit, still, life)
        if audit["state"] in TERMINAL:
            return audit
        if still > STALLED_S:
            where = f"{audit['state']}, phase {audit['progress']['phase']}, {audit['progress']['fraction']:.0%}"
            raise DeadlineExceeded(
                f"audit {audit_id} has not moved for {still:.0f} s ({where}); {life}",
                hint="read the worker's log above; on a machine this slow run it again with nothing else beside it",
            )
