"""The default policy: from a comparison's findings to what a release gate reads."""

from spinal.comparison import Damage, Localization, Verdict

POLICY = "spinal-default/1"


def decide(damage: Damage, block_swap: Localization, *, identical: bool) -> Verdict:
    """fail: damaged; warn: watch; inconclusive: no NLL; pass: otherwise. A verdict speaks of damage and of where
    the change sits, never of values."""
    reasons = [_damage_reason(damage)]
    if identical:
        reasons.append("both sides hold the same weights: there is no change to place")
    elif block_swap.window80 is None:
        reasons.append("no block computes anything else than in the reference")
    else:
        low, high = block_swap.window80
        reasons.append(f"80% of the change in what blocks compute sits in blocks {low}-{high}")
    if damage.level == "damaged":
        outcome = "fail"
    elif damage.level == "watch":
        outcome = "warn"
    elif damage.signals["nll_change"].value is None:
        outcome = "inconclusive"
        reasons.append("held-out NLL was not measured, so damage cannot be ruled out")
    else:
        outcome = "pass"
    return Verdict.model_validate({"outcome": outcome, "policy": POLICY, "reasons": tuple(reasons)})


def _damage_reason(damage: Damage) -> str:
    raised = [
        f"{name.replace('_', ' ')} {signal.value:.3g} ({signal.level})"
        for name, signal in damage.signals.items()
        if signal.level in ("watch", "damaged") and signal.value is not None
    ]
    if damage.level == "none":
        return "damage panel: nothing raised" + (f"; single signals: {', '.join(raised)}" if raised else "")
    return f"damage panel says {damage.level}: {', '.join(raised)}"
