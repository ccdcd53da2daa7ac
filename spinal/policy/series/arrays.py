"""From the comparisons of a series' members to the arrays that detectors look at: n measured members."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from spinal.analysis.damage.limits import MIN_PROMPTS
from spinal.analysis.series.detectors import Falling, Moving
from spinal.analysis.series.effects import OF_BEST, SHARE, early_effect, fall_effect, margin_effect
from spinal.analysis.series.pairing import aligned
from spinal.documents.account import Account
from spinal.documents.comparison import ComparisonContent
from spinal.documents.policy import Policy
from spinal.policy.series.signals import GROUPS, TRACKED, Tracked, watch_limit

Array = npt.NDArray[np.float64]
SHARED = "kl"
"""The account whose shares are followed."""


def falling(contents: Sequence[ComparisonContent], policy: Policy) -> dict[str, dict[str | None, Falling]]:
    """Every signal of damage that any member has prompt by prompt: in one part, or one for each category that has
    enough prompts."""
    found: dict[str, dict[str | None, Falling]] = {}
    for signal in TRACKED.values():
        if signal.role == "damage" and (parts := _parts(signal, contents, policy)):
            found[signal.name] = parts
    return found


def moving(contents: Sequence[ComparisonContent], policy: Policy) -> dict[str, Moving]:
    """Every signal of early warning that any member has."""
    found = {}
    for signal in TRACKED.values():
        if signal.role != "early_warning":
            continue
        values = np.array([np.nan if (value := value_of(signal, each)) is None else value for each in contents])
        if np.isfinite(values).any():
            found[signal.name] = Moving(values, least_effect(signal, policy), upward=signal.places is None)
    return found


def least_effect(signal: Tracked, policy: Policy) -> float:
    """The smallest change that counts, in its unit; of the margin, what it has to lose besides a tenth of its best."""
    if signal.places is not None:
        return SHARE
    watch, _ = watch_limit(policy, signal)
    if signal.follows_best:
        return margin_effect(watch)
    return fall_effect(watch) if signal.role == "damage" else early_effect(watch)


def value_of(signal: Tracked, content: ComparisonContent) -> float | None:
    """The signal's value in one comparison; None where it has none."""
    if signal.places is not None:
        return group_shares(content).get(signal.places)
    found = content.damage.signals.get(signal.name)
    return None if found is None else found.value


def carried(content: ComparisonContent) -> dict[str, float]:
    """Place -> share of the account of KL, in order of the places; empty where it gives no shares."""
    account = content.accounts.get(SHARED)
    if account is None:
        return {}
    return {part.place: part.share.value for part in account.places if part.share.value is not None}


def group_shares(content: ComparisonContent) -> dict[str, float]:
    """Group of places -> its share of the account of KL. Blocks in thirds as equal as their number allows; a model of
    fewer than three has no such group. Empty where the account gives no shares."""
    account = content.accounts.get(SHARED)
    shares = carried(content)
    if account is None or not shares:
        return {}
    blocks = [part.place for part in account.places if part.block is not None]
    thirds = [[blocks[place] for place in part] for part in np.array_split(np.arange(len(blocks)), 3)]
    members: dict[str, list[str]] = dict(zip(GROUPS, (["embeddings"], *thirds, ["read-out"]), strict=True))
    return {
        group: sum(shares[place] for place in places)
        for group, places in members.items()
        if places and all(place in shares for place in places)
    }


def why_no_shares(content: ComparisonContent) -> str:
    """Why an account gives none, for a person."""
    account: Account | None = content.accounts.get(SHARED)
    return "no account was drawn up" if account is None else (account.reason or "not measured").replace("_", " ")


def _parts(signal: Tracked, contents: Sequence[ComparisonContent], policy: Policy) -> dict[str | None, Falling]:
    of_members = [each.by_prompt.get(cast(str, signal.paired)) for each in contents]
    kept = [of for of in of_members if of is not None]
    if not kept:
        return {}
    prompts, values = aligned([None if of is None else (of.prompts, of.values) for of in of_members])
    bad_up = -values if signal.better == "higher" else values
    least, of_best = least_effect(signal, policy), OF_BEST if signal.follows_best else 0.0
    if not signal.by_category:
        return {None: Falling(bad_up, least, of_best, signal.counted)}
    category = {prompt: of for each in kept for prompt, of in zip(each.prompts, each.categories, strict=False)}
    names = sorted({of for of in category.values() if of is not None})
    columns = {name: [place for place, prompt in enumerate(prompts) if category.get(prompt) == name] for name in names}
    return {name: Falling(bad_up[:, inside], least) for name, inside in columns.items() if len(inside) >= MIN_PROMPTS}
