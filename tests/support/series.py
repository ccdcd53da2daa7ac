"""Members of a series, made from what the test says of every prompt at every step."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np

from spinal.analysis.damage.signals import mean_signal
from spinal.analysis.damage.signals import measured as measured_as
from spinal.documents.account import Account
from spinal.documents.base import Estimate
from spinal.documents.comparison import ComparisonContent, Looked, PromptSignal
from spinal.documents.policy import Policy
from spinal.policy.decide import decide
from spinal.policy.series import Member
from tests.support import contents
from tests.support.fabricated import sha

TODAY = date(2026, 6, 1)
PROMPTS = 64


def compared(
    step: int,
    signals: Mapping[str, np.ndarray],
    *,
    categories: Sequence[str | None] = (),
    account: Account | None = None,
    prompts: Sequence[int] | None = None,
    **members: Any,
) -> ComparisonContent:
    """The comparison at ``step``: ``signals`` hold each prompt's value by name. Damage panel and counts follow."""
    made = contents.base()
    by_prompt, panel = {}, dict(made.damage.signals)
    looked: tuple[Looked, ...] = ()
    # What the pair moved by agrees with a rise of NLL that the test chose.
    panel |= {name: measured_as(name, 0.01, (0.0, 0.02)) for name in ("gap", "hidden_change", "block_swap_mean")}
    for name, values in signals.items():
        of = tuple(range(1, len(values) + 1)) if prompts is None else tuple(prompts)
        kept = tuple(categories[prompt - 1] for prompt in of) if categories else ()
        by_prompt[name] = PromptSignal(prompts=of, values=tuple(map(float, values)), categories=kept)
        panel[name] = mean_signal(name, np.asarray(values, dtype=np.float64))
    if "nll_change" in signals and categories:
        nll = by_prompt["nll_change"]
        means = {
            category: [value for value, of in zip(nll.values, nll.categories, strict=True) if of == category]
            for category in dict.fromkeys(nll.categories)
        }
        looked = tuple(
            Looked(
                category=category, prompts=len(of), scored=len(of), swapped=0, accounted=0, continued=0,
                nll_change=Estimate(value=float(np.mean(of))),
            )
            for category, of in means.items()
        )  # fmt: skip
    candidate = made.candidate.model_copy(update={"weights_digest": sha(f"step {step}")})
    updates = {
        "digest": sha(f"comparison {step} {signals!r}"),
        "candidate": candidate,
        "damage": made.damage.model_copy(update={"level": "none", "signals": panel}),
        "by_prompt": by_prompt,
        "looked_at": looked,
        "accounts": {} if account is None else {"kl": account},
        **members,
    }
    fields = {name: getattr(made, name) for name in ComparisonContent.model_fields}
    return ComparisonContent.model_construct(**fields).model_copy(update=updates)


def measured(step: int, content: ComparisonContent, policy: Policy | None = None) -> Member:
    return Member(step, f"local:checkpoint-{step}", "measured", content, decide(content, policy, today=TODAY))


def run(
    rows: Mapping[str, np.ndarray], *, every: int = 100, policy: Policy | None = None, **options: Any
) -> list[Member]:
    """A series whose signals are (n, P) arrays by name, at steps ``every``, twice that, ..."""
    count = len(next(iter(rows.values())))
    steps = [every * (place + 1) for place in range(count)]
    return [
        measured(step, compared(step, {name: values[place] for name, values in rows.items()}, **options), policy)
        for place, step in enumerate(steps)
    ]
