"""A measured run in one small file, for the suite: what the judging of a series reads of its members."""

import gzip
import json
from pathlib import Path

from benchmarks.series.measured import Run
from spinal.documents.comparison import ComparisonContent
from spinal.policy.series import Member, assess

UNREAD = {
    "layers": (),
    "localization": {},
    "nulls": {},
    "curves": {},
    "statements": (),
    "prompt_changes": (),
    "warnings": (),
}
"""Members of a comparison that no rule on damage and no detector reads; they are most of it."""


def store(run: Run, path: Path) -> None:
    """Write a run. Raises ValueError where what is left out changes how it is judged."""
    contents = [member.content.model_copy(update=UNREAD) for member in run.members if member.content is not None]
    less = [_member(step, content) for step, content in zip(run.steps, contents, strict=True)]
    if assess("start", less) != assess("start", run.members):
        raise ValueError(f"{run.kind}-{run.seed} is judged otherwise without {', '.join(UNREAD)}")
    held = {
        "kind": run.kind,
        "seed": run.seed,
        "break_after": run.break_after,
        "steps": run.steps,
        "held_out": run.held_out,
        "members": [content.model_dump(mode="json", exclude_defaults=True) for content in contents],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(held, separators=(",", ":")).encode(), mtime=0))


def load(path: Path) -> Run:
    """The inverse of :func:`store`."""
    held = json.loads(gzip.decompress(path.read_bytes()))
    return Run(
        kind=held["kind"],
        seed=held["seed"],
        break_after=held["break_after"],
        steps=tuple(held["steps"]),
        held_out=tuple(held["held_out"]),
        members=tuple(
            _member(step, ComparisonContent.model_validate(each))
            for step, each in zip(held["steps"], held["members"], strict=True)
        ),
    )


def _member(step: int, content: ComparisonContent) -> Member:
    return Member(step=step, model=f"checkpoint-{step}", state="measured", content=content)
