"""What only a joint pass over two checkpoints can tell: the engine's half of a comparison, as arrays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinal.documents.trace import POSITIONS, Trace
from spinal.profile import MeasurementProfile

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class NoiseDraw:
    """Curves, at positions ``all``, of one draw of the matched-noise control: the reference with every tensor moved
    in a random direction by as far as the candidate moved it. All NaN where the draw overflowed."""

    alpha: Array
    """(W, N) contraction, windows in ``spinal.documents.trace.WINDOWS`` order."""
    transport: Array
    """(P, N) radians; node 0 is NaN."""


@dataclass(frozen=True, eq=False)
class AccountEvidence:
    """Stitched models read out place by place: Q prompts, M places in order (input embeddings, blocks 1..D, read-out,
    and last the configuration where it differs). All in nats."""

    read_out: str
    """``kl``, ``margin`` or ``refusal``."""
    places: tuple[str, ...]
    """``embeddings``, ``block 1`` .. ``block D``, ``read-out``, ``configuration``."""
    prompts: IntArray
    """(Q,) which prompts of the set."""
    forward: Array
    """(Q, M + 1) F_0..F_M: places 1..k from the candidate, the rest from the reference."""
    backward: Array
    """(Q, M + 1) B_1..B_{M+1}: places k..M from the candidate, the rest from the reference."""
    identical: npt.NDArray[np.bool_]
    """(M,) places that are the same on both sides and were not run: their part is exactly 0."""
    dropped: int = 0
    """Prompts that have what the read-out needs and were left out, since not all of it fits."""
    remarks: tuple[str, ...] = ()
    absent: str | None = None
    """Why there is no account; the arrays are then empty."""


@dataclass(frozen=True)
class SettingDifference:
    """One key on which the two sides' settings differ. Values are short texts; None where the side has no such key."""

    part: str
    """``configuration``, ``generation`` or ``chat template``."""
    key: str
    reference: str | None
    candidate: str | None
    computes: bool
    """Whether it shapes what the model computes from token ids."""


@dataclass(frozen=True, eq=False)
class PairEvidence:
    """P prompts, Q swap prompts, D blocks, N = D + 1 nodes."""

    block_swap: Array
    """(Q, D) rho_l: ||swapped output - reference output|| / ||reference block's own update||, mean over
    the prompt's positions. Exactly 0 where block l is bit-identical."""
    block_swap_transport: Array
    """(Q, D) change of the step length into node l under the same swap, radians."""
    weight_change: Array
    """(D,) relative Frobenius change of each block's parameters."""
    weight_change_other: dict[str, float]
    """The same for ``embeddings``, ``final_norm`` and ``head``."""
    function_gap: dict[str, Array]
    """positions -> (P, N) Fisher-Rao distance between both checkpoints' lens distributions at the same node."""
    fixed_lens_transport: dict[str, Array] | None
    """positions -> (P, N) candidate's transport read through the reference's lens; null when the read-out
    did not move (it is then the candidate's own transport)."""
    hidden_change: dict[str, Array]
    """positions -> (P, N) ||r_a - r_b|| / ||r_b|| per prompt (mean over its positions)."""
    readout_moved: bool
    device: str
    dtype: str
    duration_s: float
    noise: tuple[NoiseDraw, ...] = ()
    """Draws of the matched-noise control, as many as ``noise_draws`` of the profile."""
    swap_prompts: IntArray | None = None
    """(Q,) which prompts of the set were swapped; None for the first Q."""
    top_changed: Array | None = None
    """(P,) share of a prompt's read positions (``all``) whose most likely token differs at node D."""
    identical_blocks: npt.NDArray[np.bool_] | None = None
    """(D,) blocks with equal tensors, equal configuration and equal arguments."""
    settings: tuple[SettingDifference, ...] = ()
    """On what configuration, generation configuration and chat template differ."""
    frame_residual: float = float("nan")
    """Share of r_D^a (positions ``all``, centred by nothing) that the best orthogonal map with scale of r_D^b leaves
    over: ||s r_b Q - r_a||_F / ||r_a||_F. NaN where the outputs at node D lie too far apart for a mere change of basis,
    and where there are too few rows."""
    routed: bool = False
    """Whether blocks choose among experts: rounding may then choose another one."""
    accounts: tuple[AccountEvidence, ...] = ()
    noise_accounts: tuple[AccountEvidence, ...] = ()
    """The account of read-out ``kl`` for draws of matched noise."""
    absent: str | None = None
    """Why no joint pass was made, for example ``checkpoint_not_at_hand``; every array is then NaN."""


def absent_evidence(reference: Trace, candidate: Trace, profile: MeasurementProfile, reason: str) -> PairEvidence:
    """Evidence of a pair whose joint pass was not made, for ``reason``. What the traces themselves tell is filled in:
    whether the read-out moved, and that a read-out which did not is its own fixed lens."""
    prompts, nodes = reference.prompt_set.count, reference.model.n_layers + 1
    swapped = np.full((min(profile.swap_prompts, prompts), nodes - 1), np.nan)
    everywhere = {positions: np.full((prompts, nodes), np.nan) for positions in POSITIONS}
    moved = reference.model.readout_digest != candidate.model.readout_digest
    return PairEvidence(
        block_swap=swapped,
        block_swap_transport=swapped,
        weight_change=np.full(nodes - 1, np.nan),
        weight_change_other={},
        function_gap=everywhere,
        fixed_lens_transport=everywhere if moved else None,
        hidden_change=everywhere,
        readout_moved=moved,
        device=" and ".join(dict.fromkeys((reference.engine.device, candidate.engine.device))),
        dtype=reference.engine.dtype,
        duration_s=0.0,
        absent=reason,
    )
