"""What the callback needs of whatever measures its checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from spinal.integrations.spool import Queued

DAMAGE = ("none", "watch", "damaged")
PREFIX = "spinal/"


@dataclass(frozen=True)
class MemberStanding:
    """What is known of one member."""

    state: str
    """``waiting``, ``measured``, ``failed`` or ``cancelled``."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What a trainer logs, by its key there."""
    reason: str | None = None


@dataclass(frozen=True)
class Standing:
    """What is known of the series."""

    status: str
    """Of the document ``spinal.series/1``."""
    reasons: tuple[str, ...] = ()
    members: Mapping[int, MemberStanding] = field(default_factory=dict)
    """By step."""


class SeriesPort(Protocol):
    """A series that members are added to, somewhere."""

    longest_pause_s: float
    """So long may pass until it is asked again how members stand."""

    def open(self) -> None:
        """Have a series to add members to; made once. Raises SpinalError."""
        ...

    def add(self, members: Sequence[Queued]) -> None:
        """Hand members over; adding one again changes nothing.
        Raises SpinalError."""
        ...

    def standing(self) -> Standing:
        """Raises SpinalError."""
        ...

    def close(self) -> None:
        """No member comes any more. Raises SpinalError."""
        ...

    def stop(self) -> None:
        """Give up what is under way; called from another thread."""
        ...


def standing_of(document: Mapping[str, Any]) -> Standing:
    """What a document ``spinal.series/1`` says, read leniently: a newer service may say more.

    >>> found = standing_of({"status": "watch", "members": [{"step": 2, "state": "measured", "damage": "none"}]})
    >>> found.members[2].scores
    {'spinal/damage': 0.0}
    """
    signals = document.get("signals", {})
    members = {
        int(member["step"]): MemberStanding(
            str(member["state"]), _scores(member, signals), member.get("reason") or member.get("verdict_reason")
        )
        for member in document["members"]
    }
    return Standing(str(document["status"]), tuple(document.get("reasons", ())), members)


def _scores(member: Mapping[str, Any], signals: Mapping[str, Any]) -> dict[str, float]:
    """Values of the signals at the member's step, candidate minus reference, and how damaged it is: 0 not, 1 watch, 2
    damaged."""
    found = {
        PREFIX + name: float(point["value"])
        for name, signal in signals.items()
        for point in signal.get("points", ())
        if point["step"] == member["step"] and point.get("value") is not None
    }
    if member.get("damage") in DAMAGE:
        found[f"{PREFIX}damage"] = float(DAMAGE.index(member["damage"]))
    return found
