"""The panel: every signal, and whether together they mean damage (``docs/method.md`` ("Damage panel"))."""

from collections.abc import Mapping

from spinal.analysis.damage.behaviour import behaviour_signals
from spinal.analysis.damage.limits import AGREEING, LIMITS, calibration
from spinal.analysis.damage.signals import Level
from spinal.analysis.damage.structure import shown_signals, structural_signals
from spinal.documents.account import Account
from spinal.documents.capture import Capture
from spinal.documents.comparison import Damage, DamageSignal, Frame
from spinal.documents.evidence import PairEvidence


def assess(
    reference: Capture,
    candidate: Capture,
    evidence: PairEvidence,
    non_finite: int,
    terminal: tuple[int, int],
    *,
    frame: Frame | None = None,
    accounts: Mapping[str, Account] | None = None,
) -> Damage:
    """The panel: candidate against reference. ``non_finite`` counts non-finite activations of the candidate; where the
    ``frame`` changed, what compares coordinates has no vote; ``accounts`` tell the change of the preference margin."""
    margin = (accounts or {}).get("margin")
    found = behaviour_signals(reference, candidate, non_finite, margin) | structural_signals(evidence, frame)
    signals = {name: found[name] for name in LIMITS} | shown_signals(reference, candidate, evidence, terminal)
    return Damage(level=agreed(signals), signals=signals, calibration=calibration())


def agreed(signals: Mapping[str, DamageSignal]) -> Level:
    """Damaged: a signal that fails alone does, or two that warn agree with NLL. Watch: any is raised."""
    raised = {name for name, signal in signals.items() if signal.level in ("watch", "damaged")}
    if any(signals[name].fails_alone and signals[name].level == "damaged" for name in raised):
        return "damaged"
    far = [name for name in AGREEING if name in raised and signals[name].level == "damaged"]
    if len(far) >= 2 and "nll_change" in raised:
        return "damaged"
    return "watch" if raised else "none"
