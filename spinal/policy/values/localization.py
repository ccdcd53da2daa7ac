"""``localization.<locator>.<measure>``: where the change sits, by each locator."""

from collections.abc import Sequence
from dataclasses import replace

from spinal.policy.values.base import OF_THAT_RELEASE, Named, Namespace, Sources, Value, absent

MEASURES = {
    name: Named(f"localization.<locator>.{name}", means, unit, 0.0, high)
    for name, means, unit, high in (
        ("center", "centre of mass over the depth", "of the depth", 1.0),
        ("spread", "standard deviation over the depth", "of the depth", 1.0),
        ("terminal_share", "share in the terminal window", "", 1.0),
        ("gini", "how unevenly it lies over the blocks", "", 1.0),
        ("effective_blocks", "how many blocks it lies in", "blocks", float("inf")),
    )
}


def _listed() -> Sequence[Named]:
    return tuple(MEASURES.values())


def _find(rest: str) -> Named | None:
    # Brings numpy along, which reading another policy does without.
    from spinal.analysis.locators import LOCATORS

    locator, _, measure = rest.partition(".")
    if locator not in LOCATORS or measure not in MEASURES:
        return None
    return replace(MEASURES[measure], means=f"{LOCATORS[locator].label}: {MEASURES[measure].means}")


def _read(sources: Sources, rest: str) -> Value:
    locator, _, measure = rest.partition(".")
    found = sources.content.localization.get(locator)
    if found is None:
        return absent(OF_THAT_RELEASE)
    value: float | None = getattr(found, measure)
    if value is None:
        return absent(found.reason or "not measured", asked=True)
    return Value(value, found.ci.get(measure))


LOCALIZATION = Namespace("localization", _listed, _find, _read)
