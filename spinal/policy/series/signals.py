"""The signals that a series is judged by: what each is called, its bad side, and what of a policy bears on it."""

from dataclasses import dataclass
from typing import Literal

from spinal.analysis.damage.limits import LIMITS
from spinal.documents.policy import LimitRule, Policy
from spinal.documents.series import Role

DAMAGE = "damage."


@dataclass(frozen=True)
class Tracked:
    """One signal over the steps."""

    name: str
    label: str
    role: Role
    unit: str
    better: Literal["lower", "higher"] | None
    paired: str | None = None
    """Its name among the signals prompt by prompt."""
    worse: str = ""
    """What a fall means, as a sentence begins."""
    by_category: bool = False
    counted: bool = False
    """Whether a prompt's value is -1, 0 or 1."""
    follows_best: bool = False
    """Whether its least effect follows the running best."""
    places: str | None = None
    """The group of places whose share of the account it is."""

    @property
    def path(self) -> str:
        """As a policy names the value."""
        return f"{DAMAGE}{self.name}"


def _damage(
    name: str, label: str, worse: str, *, by_category: bool = False, counted: bool = False, follows_best: bool = False
) -> Tracked:
    limit = LIMITS[name]
    paired = "nll_change" if name == "nll_change_worst_category" else name
    better: Literal["lower", "higher"] = "lower" if limit.damaged > limit.neutral else "higher"
    return Tracked(
        name,
        label,
        "damage",
        limit.unit,
        better,
        paired,
        worse,
        by_category=by_category,
        counted=counted,
        follows_best=follows_best,
    )


GROUPS = {
    "embeddings": "the embeddings",
    "first_third": "the first third of the blocks",
    "middle_third": "the middle third of the blocks",
    "last_third": "the last third of the blocks",
    "read_out": "the read-out",
}
"""Groups of places of an account, in words."""
TRACKED = {
    signal.name: signal
    for signal in (
        _damage("nll_change", "change of NLL", "text is predicted worse"),
        _damage(
            "nll_change_worst_category",
            "change of NLL, the worst category",
            "text of category '{of}' is predicted worse",
            by_category=True,
        ),
        _damage("end_share_change", "change of the share of answers that end", "fewer answers end", counted=True),
        _damage(
            "end_log_p_change",
            "change of the log probability of an end",
            "an end where an answer is over is less likely",
        ),
        _damage(
            "margin_change",
            "change of the preference margin",
            "the answers that should be preferred are preferred less",
            follows_best=True,
        ),
        Tracked("gap", "gap to the reference at the last node", "early_warning", LIMITS["gap"].unit, None),
        *(
            Tracked(
                f"kl_share_{group}",
                f"share of KL(reference || candidate) carried by {words}",
                "early_warning",
                "of the total",
                None,
                places=group,
            )
            for group, words in GROUPS.items()
        ),
    )
}
"""By name: damage in the order of the panel, then early warning."""


def watch_limit(policy: Policy, signal: Tracked) -> tuple[float, str | None]:
    """The watch limit of the policy's first rule on that value, with the rule's name: its ``watch``, or the limit of a
    rule that only warns. Where no rule has one, the damage panel's own, with None."""
    for rule in rules_on(policy, signal):
        if rule.watch is not None:
            return rule.watch, rule.name
        if rule.severity == "warn":
            return rule.limit, rule.name
    return LIMITS[signal.name].watch, None


def fail_limit(policy: Policy, signal: Tracked, waived: frozenset[str] = frozenset()) -> float | None:
    """The mildest limit on that value, on its bad side, beyond which a rule that is not ``waived`` fails a member; None
    without such a rule."""
    limits = [rule.limit for rule in rules_on(policy, signal) if rule.severity == "fail" and rule.name not in waived]
    return (min if signal.better == "lower" else max)(limits, default=None)


def needed(policy: Policy, signal: Tracked) -> bool:
    """Whether a rule asks for it. Early warning decides nothing alone and is never needed."""
    return signal.role == "damage" and bool(rules_on(policy, signal))


def rules_on(policy: Policy, signal: Tracked) -> list[LimitRule]:
    """Rules that set a limit to the signal on its bad side."""
    limit = LIMITS.get(signal.name)
    if limit is None:
        return []
    bad = "above" if limit.damaged > limit.neutral else "below"
    return [
        rule for rule in policy.rules if isinstance(rule, LimitRule) and (rule.value, rule.bad) == (signal.path, bad)
    ]
