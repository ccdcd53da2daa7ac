"""Whether arrays belong to the traces that they come with: those of others might still add up."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spinal.analysis.accounts import blocks_of
from spinal.documents.capture import Capture
from spinal.documents.evidence import AccountEvidence, PairEvidence
from spinal.documents.trace import POSITIONS, Trace
from spinal.errors import TracesNotComparable
from spinal.profile import MeasurementProfile


def check_belonging(trace: Trace, capture: Capture, evidence: PairEvidence, profile: MeasurementProfile) -> None:
    """Refuse captures, evidence or a profile that belong to other traces: their arrays might still add up."""
    check_capture(trace, capture, profile)
    prompts, nodes = trace.prompt_set.count, trace.model.n_layers + 1
    swapped = evidence.block_swap.shape[0]
    checks: list[tuple[str, object, object]] = [
        ("block_swap", evidence.block_swap.shape, (max(1, min(swapped, prompts)), nodes - 1)),
        ("block_swap_transport", evidence.block_swap_transport.shape, (swapped, nodes - 1)),
        ("weight_change", evidence.weight_change.shape, (nodes - 1,)),
    ]
    if evidence.swap_prompts is not None:
        checks += [
            ("swap_prompts", evidence.swap_prompts.shape, (swapped,)),
            ("swap_prompts", _belong(evidence.swap_prompts, prompts), True),
        ]
    if evidence.top_changed is not None:
        checks.append(("top_changed", evidence.top_changed.shape, (prompts,)))
    if evidence.identical_blocks is not None:
        checks.append(("identical_blocks", evidence.identical_blocks.shape, (nodes - 1,)))
    for positions in POSITIONS:
        checks += [
            (f"function_gap ({positions})", evidence.function_gap[positions].shape, (prompts, nodes)),
            (f"hidden_change ({positions})", evidence.hidden_change[positions].shape, (prompts, nodes)),
        ]
    checks += [(f"noise draw {i}", draw.transport.shape, (prompts, nodes)) for i, draw in enumerate(evidence.noise)]
    _require_equal(checks)


def check_accounts(trace: Trace, accounts: Sequence[AccountEvidence]) -> None:
    """Refuse accounts of other prompts or another depth."""
    prompts, blocks = trace.prompt_set.count, trace.model.n_layers
    checks: list[tuple[str, object, object]] = []
    for of in (of for of in accounts if of.absent is None):
        named = f"account of {of.read_out}"
        path = (of.prompts.size, len(of.places) + 1)
        checks += [
            (f"blocks of the {named}", blocks_of(of.places), list(range(1, blocks + 1))),
            (f"prompts of the {named}", _belong(of.prompts, prompts), True),
            (f"forward path of the {named}", of.forward.shape, path),
            (f"backward path of the {named}", of.backward.shape, path),
            (f"identical places of the {named}", of.identical.shape, (len(of.places),)),
        ]
    _require_equal(checks)


def _belong(chosen: npt.NDArray[np.int64], prompts: int) -> bool:
    """Whether these are prompts of a set of that many, each at most once."""
    return bool(((chosen >= 0) & (chosen < prompts)).all()) and np.unique(chosen).size == chosen.size


def check_capture(trace: Trace, capture: Capture, profile: MeasurementProfile) -> None:
    shape = (trace.prompt_set.count, trace.model.n_layers + 1)
    _require_equal(
        [
            ("profile fingerprint", profile.fingerprint, trace.measurement_profile().fingerprint),
            (f"capture of {trace.model.source}", capture.trace_digest, trace.digest),
            *((f"transport ({positions})", capture.at(positions).transport.shape, shape) for positions in POSITIONS),
        ]
    )


def _require_equal(checks: list[tuple[str, object, object]]) -> None:
    for what, found, expected in checks:
        if found != expected:
            raise TracesNotComparable(
                f"{what} does not belong to this pair: {found} where {expected} was expected",
                hint="trace both checkpoints and gather the evidence again with one profile",
            )
