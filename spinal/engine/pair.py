"""What only a joint pass over two checkpoints can tell: block swap, weight change, gap, fixed-lens transport."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open

from spinal.analysis.frames import SAME_FUNCTION_RAD
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.held import hold
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.pair import check_pair
from spinal.checkpoints.settings import setting_differences
from spinal.documents.capture import ROWS_KEY
from spinal.documents.evidence import AccountEvidence, NoiseDraw, PairEvidence
from spinal.documents.trace import POSITIONS
from spinal.engine.assemble import prompt_means, step_means
from spinal.engine.failures import device_failures
from spinal.engine.frame import frame_residual
from spinal.engine.memory import with_less_memory
from spinal.engine.noise import changes, noise_curves, perturb
from spinal.engine.place_accounts import account_of_noise, account_of_pair, alike
from spinal.engine.reporter import Reporter
from spinal.engine.same import routes, settings_of
from spinal.engine.session import Session, Setup, open_pair
from spinal.engine.swap import block_swap
from spinal.engine.tokens import GatheredRows
from spinal.engine.transport import read_gap, read_lens, readout_digest, steps
from spinal.engine.warm import Lent
from spinal.engine.weights import block_changes, other_changes, unlike_rows
from spinal.errors import CaptureMissing, PairMismatch, TracesNotComparable
from spinal.profile import MeasurementProfile
from spinal.progress import CancelCheck, ProgressSink, ignore_progress, never_cancelled
from spinal.prompts.sets import PromptSet
from spinal.warm import Warm

Array = npt.NDArray[np.float64]
NOISE_ACCOUNTS = 2
"""Draws of matched noise that are accounted for, at most: as many as show by how much draws differ."""


@device_failures()
def gather_evidence(
    reference: Checkpoint,
    candidate: Checkpoint,
    *,
    reference_capture: Path,
    candidate_capture: Path,
    prompts: PromptSet,
    profile: MeasurementProfile,
    device: str = "cpu",
    stream: bool = False,
    progress: ProgressSink = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
    warm: Warm | None = None,
) -> PairEvidence:
    """Evidence on the pair, walked a pair of blocks at a time.

    Parameters
    ----------
    reference, candidate
        Two checkpoints of one shape and tokenizer.
    reference_capture, candidate_capture : Path
        Captures of their traces on these prompts with this profile.
    prompts, profile
        What the traces were measured on, and how; the profile's knobs of comparisons apply.
    device : str
        As torch names it.
    stream : bool
        Read the blocks from disk, a pair at a time, where the checkpoints allow it: same numbers, less memory.
        Matched noise (``noise_draws``) needs whole models and loads them.
    progress, cancelled
        Told at every step; asked at every step and between pieces of long ones.
    warm : Warm, optional
        Where what was read of the reference is found, and left for the next call: same numbers, less work.

    Returns
    -------
    PairEvidence
        Block swap (a ratio) and its change of L (radians), weight changes (ratios), the gap and the transport through
        a fixed lens (radians), the change of residuals (a ratio), accounts of what carries the change (nats), draws of
        matched noise.

    Raises
    ------
    SpinalError
        PairMismatch, TokenizerMismatch, CaptureMissing, TracesNotComparable, NonFiniteActivations, DeviceFailed,
        OutOfMemory, Cancelled, and the errors of :mod:`spinal.checkpoints` and of opening a session.

    Examples
    --------
    >>> import tempfile
    >>> from spinal.checkpoints.resolve import resolve_reference
    >>> from spinal.engine.api import measure
    >>> sides = [resolve_reference(f"examples/checkpoints/{name}", roots=None) for name in ("sft", "dpo-short")]
    >>> prompts, profile = PromptSet(("How do I plant a tree?", "Why is it blue?"), (None, None)), MeasurementProfile()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [Path(folder) / name for name in "ab"]
    ...     for side, path in zip(sides, paths):
    ...         _ = measure(side, prompts, profile, capture_path=path)
    ...     evidence = gather_evidence(
    ...         *sides, reference_capture=paths[0], candidate_capture=paths[1], prompts=prompts, profile=profile
    ...     )
    >>> evidence.block_swap.shape, evidence.function_gap["all"].shape
    ((2, 24), (2, 25))
    """
    reporter, lent = Reporter(progress, cancelled), Lent(warm or Warm())

    def attempt(batch_size: int) -> PairEvidence:
        started = time.monotonic()
        # Matched noise rewrites a whole model, so that pair is loaded whole.
        setup = Setup(prompts, profile, batch_size, device, stream and not profile.noise_draws, reporter)
        with torch.inference_mode(), _opened(reference, candidate, setup) as (ours, theirs):
            return _gather(ours, theirs, (reference_capture, candidate_capture), lent, started)

    evidence = with_less_memory(attempt, profile, device, lent.give_up)
    lent.succeeded()
    return evidence


@contextmanager
def _opened(reference: Checkpoint, candidate: Checkpoint, setup: Setup) -> Iterator[tuple[Session, Session]]:
    """Both models, their files held from the first look to the last read; raises ModelChanged at its end."""
    reporter = setup.reporter
    with hold(reference) as first, hold(candidate) as second:
        for side in (first, second):
            side.hash_unsettled(cancelled=reporter.cancelled)
        reporter.step("load", 0, 1, (0.0, 0.0))
        inspect(first.checkpoint)
        inspect(second.checkpoint)
        check_pair(first.checkpoint, second.checkpoint)
        yield open_pair(first.checkpoint, second.checkpoint, setup)
        first.require_unchanged()
        second.require_unchanged()


def _gather(ours: Session, theirs: Session, captures: tuple[Path, Path], lent: Lent, started: float) -> PairEvidence:
    setup, reporter = ours.setup, ours.reporter
    readouts = readout_digest(ours.readout), readout_digest(theirs.readout)
    lent.compare_with(ours, readouts[0])
    reporter.step("weights", 0, 1, (0.05, 0.05))
    weight_change = block_changes(ours.anatomy, theirs.anatomy)
    other = other_changes(ours, theirs)
    swapped = block_swap(ours, theirs, (0.1, 0.35), lent)
    rows = (_read_rows(captures[0], ours.gathered), _read_rows(captures[1], ours.gathered))
    reporter.step("gap", 0, 1, (0.35, 0.35))
    seen = _through_lenses(ours, theirs, rows, readouts, lent)
    hidden = _hidden_change(rows, ours)
    frame = _frame_residual(rows, seen, ours)
    reporter.step("gap", 1, 1, (0.35, 0.5))
    before_noise = 0.75 if setup.asked.noise_draws else 1.0
    accounts = account_of_pair(ours, theirs, swapped.places, (0.5, before_noise))
    reporter.step("accounts", 1, 1, (0.5, before_noise))
    configurations = settings_of(ours), settings_of(theirs)
    noise, noise_accounts = _noise(ours, theirs, (before_noise, 1.0))
    return PairEvidence(
        block_swap=swapped.rho,
        block_swap_transport=swapped.transport,
        weight_change=weight_change,
        weight_change_other=other,
        function_gap=seen.gap,
        fixed_lens_transport=seen.fixed,
        top_changed=seen.top_changed,
        hidden_change=hidden,
        readout_moved=readouts[0] != readouts[1],
        device=setup.device,
        dtype=ours.dtype,
        duration_s=time.monotonic() - started,
        noise=noise,
        accounts=accounts,
        noise_accounts=noise_accounts,
        identical_blocks=swapped.identical,
        frame_residual=frame,
        routed=any(map(routes, configurations)),
        settings=setting_differences(ours.loaded.checkpoint, theirs.loaded.checkpoint, configurations),
        swap_prompts=swapped.prompts,
    )


@device_failures()
def gather_accounts(
    reference: Checkpoint,
    candidate: Checkpoint,
    *,
    prompts: PromptSet,
    profile: MeasurementProfile,
    device: str = "cpu",
    stream: bool = False,
    progress: ProgressSink = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
) -> tuple[AccountEvidence, ...]:
    """The accounts alone of a pair, as :func:`gather_evidence` draws them up; nothing is traced for them.

    Raises what :func:`gather_evidence` raises but for what has to do with captures.

    Examples
    --------
    >>> from spinal.checkpoints.resolve import resolve_reference
    >>> sides = [resolve_reference(f"examples/checkpoints/{name}", roots=None) for name in ("sft", "dpo-short")]
    >>> prompts = PromptSet(("How do I plant a tree?", "Why is it blue?"), (None, None))
    >>> (account,) = gather_accounts(*sides, prompts=prompts, profile=MeasurementProfile())
    >>> account.read_out, account.forward.shape, bool((account.forward[:, 0] == 0.0).all())
    ('kl', (2, 27), True)
    """
    if not profile.stitch_prompts:
        return ()
    reporter = Reporter(progress, cancelled)

    def attempt(batch_size: int) -> tuple[AccountEvidence, ...]:
        setup = Setup(prompts, profile, batch_size, device, stream, reporter)
        with torch.inference_mode(), _opened(reference, candidate, setup) as (ours, theirs):
            return account_of_pair(ours, theirs, alike(ours, theirs), (0.1, 1.0))

    return with_less_memory(attempt, profile, device)


def _noise(
    ours: Session, theirs: Session, span: tuple[float, float]
) -> tuple[tuple[NoiseDraw, ...], tuple[AccountEvidence, ...]]:
    """Draws of the matched-noise control, and accounts of the first of them. Gives up the candidate's weights, so it
    comes last."""
    profile = ours.setup.asked
    if not profile.noise_draws or ours.loaded.model is theirs.loaded.model:
        return (), ()
    mine, other = ours.loaded.model, theirs.loaded.model
    shared = ours.readout.vocabulary
    norms = changes(mine, other, shared)
    if not any(norms.values()):
        return (), ()
    rows = dict.fromkeys(unlike_rows(dict(mine.named_parameters()), dict(other.named_parameters())), shared)
    draws, accounts = [], []
    for draw in range(profile.noise_draws):
        low, high = (span[0] + (span[1] - span[0]) * share / profile.noise_draws for share in (draw, draw + 1))
        perturb(mine, other, norms, profile.seed, draw, rows)
        draws.append(noise_curves(theirs))
        if draw < NOISE_ACCOUNTS and profile.stitch_prompts:
            accounts.append(account_of_noise(ours, theirs, ((low + high) / 2, high)))
        ours.reporter.step("noise", draw + 1, profile.noise_draws, span)
    return tuple(draws), tuple(accounts)


def _read_rows(path: Path, gathered: GatheredRows) -> torch.Tensor:
    """Residuals (N, K, d) of a capture, which must hold exactly the gathered rows."""
    if not path.is_file():
        raise CaptureMissing(f"capture {path.name} is not in the artifact store", hint="trace the checkpoint again")
    try:
        with safe_open(path, framework="pt") as file:
            rows = file.get_tensor(ROWS_KEY)
    except SafetensorError as error:
        raise CaptureMissing(f"capture {path.name} is damaged ({error})", hint="trace the checkpoint again") from error
    if rows.shape[1] != len(gathered.prompt):
        raise TracesNotComparable(
            f"capture {path.name} holds {rows.shape[1]} rows, these prompts have {len(gathered.prompt)}",
            hint="trace both checkpoints on the same prompts with the same profile",
        )
    return rows


@dataclass(frozen=True, eq=False)
class _Seen:
    """The pair through lenses, P prompts and N nodes."""

    gap: dict[str, Array]
    """positions -> (P, N) radians, each side through its own lens."""
    top_changed: Array
    """(P,) share of positions ``all`` whose most likely token differs at node D."""
    fixed: dict[str, Array] | None
    """positions -> (P, N) radians: the candidate's transport through the reference's lens, where the read-out moved."""


def _through_lenses(
    ours: Session, theirs: Session, rows: tuple[torch.Tensor, torch.Tensor], readouts: tuple[str, str], lent: Lent
) -> _Seen:
    gathered, reporter = ours.gathered, ours.reporter
    before, after = rows[0].to(ours.device), rows[1].to(ours.device)
    if before.shape != after.shape:
        raise PairMismatch("the captures differ in nodes or width", hint="compare checkpoints of one ancestor")
    nodes = before.shape[0]
    moved = readouts[0] != readouts[1]
    kept = lent.logits(ours.readout, before, traced=True)
    same = lent.gap(readouts[1], after)
    if same is None:
        same = read_gap(
            (ours.readout, before), (theirs.readout if moved else ours.readout, after), reporter.check, kept
        )
        lent.remember_gap(readouts[1], after, same)
    gap = {positions: prompt_means(same.distance, gathered, positions) for positions in POSITIONS}
    other = (same.argmax[0] != same.argmax[1]).astype(np.float64)
    top_changed = prompt_means(other[None], gathered, "all")[:, 0]
    reporter.step("gap", 1, 2, (0.35, 0.45))
    if not moved:
        return _Seen(gap, top_changed, None)
    fixed = read_lens([(ours.readout, after)], steps(nodes), check=reporter.check)
    through_ours = {positions: step_means(fixed.distance, gathered, positions) for positions in POSITIONS}
    return _Seen(gap, top_changed, through_ours)


def _frame_residual(rows: tuple[torch.Tensor, torch.Tensor], seen: _Seen, session: Session) -> float:
    """:func:`spinal.engine.frame.frame_residual` at node D; NaN where the outputs lie so far apart that another basis
    is not the reason: the fit takes minutes in wide models."""
    if not float(np.nanmean(seen.gap["all"][:, -1])) < SAME_FUNCTION_RAD:
        return float("nan")
    every = session.gathered.in_all
    before, after = (side[-1][every].to(session.device) for side in rows)
    return frame_residual(before, after, session.gathered.prompt[every], session.reporter.check)


def _hidden_change(rows: tuple[torch.Tensor, torch.Tensor], session: Session) -> dict[str, Array]:
    before, after = rows[0].double(), rows[1].double()
    moved = (after - before).norm(dim=-1)
    change = torch.where(moved > 0, moved / before.norm(dim=-1), 0.0).numpy()
    return {positions: prompt_means(change, session.gathered, positions) for positions in POSITIONS}
