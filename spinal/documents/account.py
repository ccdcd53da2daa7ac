"""What carries a change: the account of a read-out over the places of a model (``docs/method.md`` ("What carries the
change"))."""

from collections.abc import Mapping
from typing import Literal

from spinal.documents.base import Document, Estimate, Finite, Remark
from spinal.documents.localization import Localization

ReadOut = Literal["kl", "margin", "refusal"]
READ_OUTS: dict[str, str] = {
    "kl": "KL(reference || candidate)",
    "margin": "the preference margin",
    "refusal": "the log-odds of a refusal",
}
"""Read-outs as sentences, tables and plots call them."""
CANCELLING = "cancelling"
WITHIN_ROUNDING = "within_rounding"
NOT_SIGNIFICANT = "total_not_significant"
FRAME_CHANGED = "frame_changed"
CONFIGURATION = "configuration"
"""The place of an account that other settings make, and their part among settings."""


class PlacePart(Document):
    """What one place carries of the total: phi of the account, in nats."""

    place: str
    """``embeddings``, ``block 1`` .., ``read-out`` or ``configuration``."""
    block: int | None
    identical: bool
    """The same on both sides: its part is exactly 0."""
    phi: Estimate
    """``significant`` is corrected over all places."""
    interaction: Finite
    """Half of |forward part - backward part|: how much the part depends on what else is there."""
    share: Estimate
    """phi / total; null with a reason where the total gives no shares."""


class Account(Document):
    """How much of one read-out's change each place carries; the parts add up to the total."""

    read_out: ReadOut
    prompts: int
    dropped: int = 0
    """Prompts that were left out, since what is read of them did not fit."""
    total: Estimate
    """h(candidate) - h(reference), nats: for ``kl`` KL(reference || candidate), for ``margin`` the change of
    log p(preferred) - log p(rejected), for ``refusal`` that of the log-odds of a refusal."""
    floor: Finite | None
    """What rounding alone can make of the total, times 10; below it there are no shares."""
    places: tuple[PlacePart, ...]
    localization: Localization | None
    """Of max(0, phi x sign of the total) over blocks."""
    blocks_terminal_share: Estimate
    """Of the blocks' own sum, the part in the terminal window; compare with ``localization.terminal_share_null``."""
    cancelling: tuple[str, str] | None = None
    """The largest pair of places of opposite sign, where parts cancel."""
    reason: str | None = None
    """Why there are no shares."""
    remarks: tuple[Remark, ...] = ()


class AccountContrast(Document):
    """Candidate minus control for one read-out, paired over prompts."""

    read_out: ReadOut
    prompts: int
    total: Estimate
    places: dict[str, Estimate]
    """phi by place, candidate minus control."""


def configuration_carries(accounts: Mapping[str, Account]) -> bool | None:
    """Whether settings that differ compute something else on the prompts of the accounts; None where no account was
    drawn up. An account has the configuration among its places where keys differ that might; what it carries within
    rounding is nothing."""
    drawn = [account for account in accounts.values() if account.places]
    if not drawn:
        return None
    return any(
        part.phi.value is None or abs(part.phi.value) > (account.floor or 0.0)
        for account in drawn
        for part in account.places
        if part.place == CONFIGURATION
    )
