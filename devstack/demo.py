"""The demonstration: audit the bundled pair through the real HTTP API and show where the change sits."""

import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from devstack.stack import Stack
from spinal.client import Client, error_of
from spinal.comparison import Comparison
from spinal.report.terminal import print_document

REFERENCE, CANDIDATE = "local:sft", "local:dpo-short"
PROMPT_SET = "hh-harmless-128"
# Shorter than the defaults so that two cores show a real result within seconds; every knob is in the report.
PROFILE = {"max_tokens": 96, "swap_prompts": 64}
PATIENCE_S = 180.0


def audit_bundled_pair(stack: Stack, report_path: Path, console: Console) -> bool:
    """Submit, watch, print, write the report; False when the audit did not succeed."""
    with Client(stack.url, stack.api_key) as client:
        audit = client.submit(CANDIDATE, REFERENCE, prompt_set=PROMPT_SET, profile=PROFILE, labels={"purpose": "demo"})
        console.print(f"POST {stack.url}/v1/audits  {REFERENCE} -> {CANDIDATE}  => audit {audit['id']}")
        audit = _watch(client, audit["id"], console)
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


def _watch(client: Client, audit_id: str, console: Console) -> dict[str, Any]:
    """Progress until the end: a bar on a terminal, a line for every phase elsewhere."""
    started = time.monotonic()
    seen = ""

    def line(audit: dict[str, Any]) -> None:
        nonlocal seen
        progress = audit["progress"]
        if progress["phase"] != seen:
            seen = progress["phase"]
            console.print(f"{time.monotonic() - started:5.1f} s  {progress['fraction']:4.0%}  {audit['state']}: {seen}")

    if not console.is_terminal:
        return client.wait(audit_id, timeout=PATIENCE_S, every=0.4, on_progress=line)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("queued", total=1.0)

        def draw(audit: dict[str, Any]) -> None:
            progress = audit["progress"]
            bar.update(task, completed=progress["fraction"], description=f"{audit['state']}: {progress['phase']}")

        return client.wait(audit_id, timeout=PATIENCE_S, every=0.4, on_progress=draw)
