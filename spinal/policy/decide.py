"""What a release gate reads: the default policy ``spinal-default/1``.

It gates on damage alone. A signature, however strong, is shown and never judged: the strongest one among the
checkpoints with a known history belongs to a wrecked model.
"""

from spinal.documents.comparison import NO_CHANGE, Damage, Localization, Verdict

POLICY = "spinal-default/1"


def decide(damage: Damage, block_swap: Localization, *, identical: bool) -> Verdict:
    """fail when damaged; inconclusive when a voting signal could not be measured, unless damage was seen all
    the same; warn when watched; else pass."""
    raised = tuple(
        f"{name} = {signal.value:.4g} {signal.unit} is at '{signal.level}'"
        for name, signal in damage.signals.items()
        if signal.value is not None and signal.level in ("watch", "damaged")
    )
    unmeasured = tuple(
        f"{name} could not be measured ({signal.reason}), so damage cannot be ruled out"
        for name, signal in damage.signals.items()
        if signal.watch is not None and signal.value is None
    )
    where = _where(block_swap, identical)
    if damage.level == "damaged":
        return Verdict(outcome="fail", policy=POLICY, reasons=("the candidate looks damaged", *raised, where))
    if unmeasured:
        return Verdict(outcome="inconclusive", policy=POLICY, reasons=(*unmeasured, *raised, where))
    if damage.level == "watch":
        return Verdict(outcome="warn", policy=POLICY, reasons=("a damage signal is raised", *raised, where))
    return Verdict(outcome="pass", policy=POLICY, reasons=("the damage panel is quiet", where))


def _where(block_swap: Localization, identical: bool) -> str:
    if identical:
        return "both sides hold the same weights: there is no change to place"
    if block_swap.window80 is None and block_swap.reason != NO_CHANGE:
        why = (block_swap.reason or "not_measured").replace("_", " ")
        return f"whether and where blocks compute something else was not measured ({why})"
    if block_swap.window80 is None:
        return "no block computes anything else than in the reference"
    first, last = block_swap.window80
    return f"80% of the change in what blocks compute sits in blocks {first}-{last} (shown, not judged)"
