"""The process that measures checkpoints of a spool, and judges the run after each:
``python -m spinal.integrations.measuring SPOOL STEP...``.

It is another process than the one that trains, so that it uses none of its random numbers, and gives all memory back.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from spinal.documents.comparison import Comparison
from spinal.documents.schemas import load
from spinal.errors import SpinalError
from spinal.integrations.port import PREFIX, standing_of
from spinal.integrations.spool import Run, Spool
from spinal.local import compare
from spinal.policy.judge import find_policy
from spinal.policy.series import Member, assess

ERROR, LOG, SERIES, STANDING = ".error.json", "measuring.log", "series.json", "standing.json"
NICE = 10
"""Added to the niceness: training goes first."""


def main(folder: str, *steps: str) -> None:
    """Measure the steps in turn; write what was found or why not, and what is to be said of the run then."""
    with suppress(AttributeError, OSError):
        os.nice(NICE)
    spool = Spool(Path(folder))
    for step in steps:
        _measure(spool, spool.run(), int(step))
        # Anew: training may have ended meanwhile.
        _judge(spool, spool.run())


def _measure(spool: Spool, run: Run, step: int) -> None:
    try:
        found = compare(
            run.reference, spool.checkpoint(step), prompts=run.prompts, policy=run.policy, device=run.device,
            threads=run.threads, **run.knobs,
        )  # fmt: skip
    except SpinalError as error:
        write_json(spool.measured / f"{step}{ERROR}", error.to_problem(here=True))
        return
    _write(spool.measured / f"{step}.json", found.model_dump_json())


def _judge(spool: Spool, run: Run) -> None:
    members = list(_members(spool, run))
    series = assess(run.reference, members, find_policy(run.policy), labels=run.labels, closed=run.ended)
    _write(spool.state / SERIES, series.model_dump_json())
    standing = standing_of(series.model_dump(mode="json"))
    panels = {member.step: _panel(member) for member in members}
    told = {
        step: {"state": member.state, "scores": {**panels[step], **member.scores}, "reason": member.reason}
        for step, member in standing.members.items()
    }
    write_json(spool.state / STANDING, {"status": standing.status, "reasons": list(standing.reasons), "members": told})


def _members(spool: Spool, run: Run) -> Iterator[Member]:
    for queued in spool.members():
        step, model = queued.step, f"{run.name}/checkpoint-{queued.step}"
        measured, error = spool.measured / f"{step}.json", spool.measured / f"{step}{ERROR}"
        if measured.is_file():
            found = load(measured)
            assert isinstance(found, Comparison)
            yield Member(step, model, "measured", found, found.verdict)
        elif error.is_file():
            yield Member(step, model, "failed", reason=json.loads(error.read_text(encoding="utf-8"))["detail"])
        elif queued.stage == "settled":
            yield Member(step, model, "failed", reason=queued.reason)
        else:
            yield Member(step, model, "waiting")


def _panel(member: Member) -> dict[str, float]:
    """The damage panel's values, candidate minus reference."""
    signals = member.content.damage.signals if member.content is not None else {}
    return {PREFIX + name: signal.value for name, signal in signals.items() if signal.value is not None}


def write_json(path: Path, content: dict[str, Any]) -> None:
    _write(path, json.dumps(content))


def _write(path: Path, text: str) -> None:
    # The process of a trainer that was killed may still be at work on the same member.
    made = path.with_name(f"{path.name}.{os.getpid()}.new")
    made.write_text(text, encoding="utf-8")
    made.replace(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
