"""``categories.<category>.<measure>``: what the prompts of one category say."""

from collections.abc import Sequence

from spinal.policy.values.base import (
    OF_THAT_RELEASE,
    Named,
    Namespace,
    Sources,
    Value,
    absent,
    exactly,
    of_estimate,
)

WORST = "nll_change_worst_category"
MEASURES = {
    "nll_change": Named("categories.<category>.nll_change", "how much worse text of the category is predicted",
                        "nats/token"),
    "scored": Named("categories.<category>.scored", "prompts of the category that were scored", "prompts", low=0.0),
}  # fmt: skip


def _listed() -> Sequence[Named]:
    return tuple(MEASURES.values())


def _find(rest: str) -> Named | None:
    # A name may hold dots itself.
    category, _, measure = rest.rpartition(".")
    return MEASURES.get(measure) if category else None


def _read(sources: Sources, rest: str) -> Value:
    category, _, measure = rest.rpartition(".")
    content = sources.content
    looked = next((one for one in content.looked_at if one.category == category), None)
    if looked is None:
        return absent(f"no prompt of category {category!r}" if content.looked_at else OF_THAT_RELEASE)
    if measure == "scored":
        return exactly(float(looked.scored))
    if looked.nll_change is not None:
        return of_estimate(looked.nll_change)
    worst = content.damage.signals.get(WORST)
    if worst is not None and worst.of == category and worst.value is not None:
        return Value(worst.value, worst.ci, worst.se)
    return absent(OF_THAT_RELEASE)


CATEGORIES = Namespace("categories", _listed, _find, _read)
