"""A measured run in one small file, for the suite: what the judging of a series reads of its members."""

import gzip
import json
from pathlib import Path
from typing import Any

from benchmarks.trained_series.measured import Run
from spinal.documents.comparison import ComparisonContent
from spinal.policy.series import Member, assess

UNREAD: dict[str, Any] = {
    "layers": (),
    "localization": {},
    "nulls": {},
    "curves": {},
    "statements": (),
    "prompt_changes": (),
    "warnings": (),
}
"""Members of a comparison that no rule on damage and no detector reads; they are most of it."""

ELSEWHERE: dict[str, Any] = {"hostname": None, "command": None, "platform": "Linux"}


def store(run: Run, path: Path) -> None:
    """Write a run. Raises ValueError where what is left out changes how it is judged."""
    contents = [_less(member.content, member.model) for member in run.members if member.content is not None]
    less = [_member(step, content) for step, content in zip(run.steps, contents, strict=True)]
    # All but the digest: it is one of the verdicts' sentences on places, too, and those need what is left out.
    whole, left = (assess("start", each).model_dump_json(exclude={"digest"}) for each in (run.members, less))
    if left != whole:
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


def _less(content: ComparisonContent, model: str) -> ComparisonContent:
    """What is read of it, under names that say nothing of the machine that measured it."""
    kept = {name: account for name, account in content.accounts.items() if name == "kl"}
    named = {
        "reference": content.reference.model_copy(update={"source": "start"}),
        "candidate": content.candidate.model_copy(update={"source": model}),
        "provenance": content.provenance.model_copy(update=ELSEWHERE),
    }
    return content.model_copy(update=UNREAD | named | {"accounts": kept})


def _member(step: int, content: ComparisonContent) -> Member:
    return Member(step=step, model=f"checkpoint-{step}", state="measured", content=content)
