"""``accounts.<read-out>.<part>``: what carries the change, in nats or as shares."""

from collections.abc import Sequence
from dataclasses import replace

from spinal.documents.account import CONFIGURATION, READ_OUTS
from spinal.policy.values.base import Named, Namespace, Sources, Value, absent, of_estimate

PARTS = {
    "total": Named("accounts.<read-out>.total", "the whole change of the read-out", "nats"),
    "last_third": Named(
        "accounts.<read-out>.last_third", "share of the blocks' own sum in the terminal window", "of the blocks' part"
    ),
    "phi": Named("accounts.<read-out>.phi.<place>", "what a place carries of the change", "nats"),
    "share": Named("accounts.<read-out>.share.<place>", "share of the change that a place carries", "of the total"),
}
MEANS = {
    "total": "{change}",
    "last_third": "share of the blocks' own part of {change} in the terminal window",
    "phi": "what {place} carries of {change}",
    "share": "share of {change} that {place} carries",
}
PLACED = ("phi", "share")
"""Parts of one place each."""
PLACES = ("embeddings", "read-out", CONFIGURATION)
"""Places beside ``block 1``, ``block 2`` ..."""


def _listed() -> Sequence[Named]:
    return tuple(PARTS.values())


def is_place(place: str) -> bool:
    """Whether an account may have a place of that name."""
    word, _, number = place.partition(" ")
    return place in PLACES or (word == "block" and number.isascii() and number.isdigit())


def change_of(read_out: str) -> str:
    """What an account adds up to, in words."""
    return READ_OUTS[read_out] if read_out == "kl" else f"the change of {READ_OUTS[read_out]}"


def _find(rest: str) -> Named | None:
    read_out, _, part = rest.partition(".")
    part, dot, place = part.partition(".")
    if read_out not in READ_OUTS or part not in PARTS:
        return None
    if not is_place(place) if part in PLACED else bool(dot):
        return None
    named = PARTS[part]
    low = 0.0 if (read_out, part) == ("kl", "total") else named.low
    return replace(named, means=MEANS[part].format(change=change_of(read_out), place=place), low=low)


def _read(sources: Sources, rest: str) -> Value:
    read_out, _, part = rest.partition(".")
    part, _, place = part.partition(".")
    account = sources.content.accounts.get(read_out)
    if account is None:
        return absent(f"no account of {READ_OUTS[read_out]} was drawn up")
    if part == "total":
        return of_estimate(account.total)
    if part == "last_third":
        return of_estimate(account.blocks_terminal_share)
    found = next((one for one in account.places if one.place == place), None)
    if found is None:
        return absent(f"the account has no place {place!r}" if account.places else account.reason or "not measured")
    return of_estimate(found.phi if part == "phi" else found.share)


ACCOUNTS = Namespace("accounts", _listed, _find, _read)
