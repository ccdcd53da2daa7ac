"""Every value that a rule may ask for: one file here, and one entry in ``NAMESPACES``, for paths that begin alike."""

from spinal.policy.values.accounts import ACCOUNTS
from spinal.policy.values.base import Named, Namespace, Sources, Value
from spinal.policy.values.blocks import BLOCKS, WEIGHTS
from spinal.policy.values.categories import CATEGORIES
from spinal.policy.values.contrasts import CONTRASTS
from spinal.policy.values.damage import DAMAGE
from spinal.policy.values.former import FORMER
from spinal.policy.values.localization import LOCALIZATION
from spinal.policy.values.scores import SCORES_OF_A_COMPARISON

__all__ = ["NAMESPACES", "Named", "Namespace", "Sources", "Value", "known_values", "named", "read"]

NAMESPACES: dict[str, Namespace] = {
    namespace.name: namespace
    for namespace in (
        DAMAGE,
        CATEGORIES,
        ACCOUNTS,
        CONTRASTS,
        FORMER,
        BLOCKS,
        WEIGHTS,
        LOCALIZATION,
        SCORES_OF_A_COMPARISON,
    )
}
"""By the word with which their paths begin, in the order in which they are listed."""


def known_values() -> tuple[Named, ...]:
    """Every path that there is, or family of paths, with what it means: the list of the documentation and of errors.

    Examples
    --------
    >>> known_values()[0].path
    'damage.nll_change'
    """
    return tuple(one for namespace in NAMESPACES.values() for one in namespace.listed())


def named(path: str) -> Named | None:
    """What ``path`` names; None where there is no such value.

    Examples
    --------
    >>> named("accounts.kl.last_third").unit
    "of the blocks' part"
    >>> named("damage.luck") is None
    True
    """
    first, dot, rest = path.partition(".")
    namespace = NAMESPACES.get(first)
    return namespace.find(rest) if namespace is not None and dot else None


def read(path: str, sources: Sources) -> Value:
    """The value at a path that :func:`named` knows, or why there is none."""
    first, _, rest = path.partition(".")
    return NAMESPACES[first].read(sources, rest)
