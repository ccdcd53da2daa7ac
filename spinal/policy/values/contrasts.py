"""``contrasts.<read-out or score>``: candidate minus control, paired over prompts."""

from collections.abc import Sequence
from dataclasses import replace

from spinal.documents.account import READ_OUTS
from spinal.policy.values.accounts import change_of, is_place
from spinal.policy.values.base import Named, Namespace, Sources, Value, absent, of_estimate
from spinal.policy.values.scores import SCORES

NO_CONTROL = "no control was named"
TOTAL = Named("contrasts.<read-out>.total", "the whole change of the read-out, candidate minus control", "nats")
PHI = Named("contrasts.<read-out>.phi.<place>", "what a place carries, candidate minus control", "nats")
OF_SCORES = Named("contrasts.scores.<score>", "a score of the signature, candidate minus control")


def _listed() -> Sequence[Named]:
    return TOTAL, PHI, OF_SCORES


def _find(rest: str) -> Named | None:
    first, _, part = rest.partition(".")
    if first == "scores":
        return replace(OF_SCORES, means=f"{SCORES[part].means}, candidate minus control") if part in SCORES else None
    if first not in READ_OUTS:
        return None
    place = part.removeprefix("phi.")
    if part == "total":
        return replace(TOTAL, means=f"{change_of(first)}, candidate minus control")
    if place != part and is_place(place):
        return replace(PHI, means=f"what {place} carries of {change_of(first)}, candidate minus control")
    return None


def _read(sources: Sources, rest: str) -> Value:
    content = sources.content
    if content.control is None:
        return absent(NO_CONTROL)
    first, _, part = rest.partition(".")
    if first == "scores":
        null = content.nulls.get("control")
        score = None if null is None else null.contrast.get(part)
        return absent("not contrasted with the control", asked=True) if score is None else of_estimate(score)
    contrast = content.account_contrasts.get(first)
    if contrast is None:
        return absent(f"no account of {READ_OUTS[first]} was drawn up for the control")
    place = contrast.total if part == "total" else contrast.places.get(part.removeprefix("phi."))
    return absent(f"the account has no {part!r}") if place is None else of_estimate(place)


CONTRASTS = Namespace("contrasts", _listed, _find, _read)
