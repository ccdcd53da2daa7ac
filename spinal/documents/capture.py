"""What a trace leaves behind for comparisons: per-prompt values, alpha replicates, gathered rows.

A capture is one safetensors file beside the trace. The arrays here are numpy, so that every analysis of a
pair runs without torch; only the residual rows (``rows``, read by the engine through torch) stay in the file.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from spinal.documents.temperatures import TEMPERATURES
from spinal.documents.trace import POSITIONS
from spinal.errors import CaptureMissing, DocumentInvalid

Array = npt.NDArray[np.float64]
ReplicateKind = Literal["influence", "groups"]
WriteCapture = Callable[[Callable[[], None]], None]
"""Carries out the write of a capture, again where it fails and may come to succeed: what was measured is in memory
until then. Each write leaves the whole capture, or nothing."""


def write_once(write: Callable[[], None]) -> None:
    """Carry out the write; where it fails, so does the measurement."""
    write()


@dataclass(frozen=True, eq=False)
class PositionsCapture:
    """Per-prompt values at one choice of positions. P prompts, N = D + 1 nodes, W = 4 windows in
    ``spinal.documents.trace.WINDOWS`` order. Missing values are NaN."""

    transport: Array
    """(P, N) radians; node 0 is NaN."""
    entropy: Array
    """(P, N) nats."""
    alpha: Array
    """(W, N) contraction on all prompts."""
    replicates: Array
    """(W, N, R): for ``influence`` the influence of each prompt on alpha (R = P); for ``groups`` alpha
    with prompt group g left out (R = groups)."""
    replicate_kind: ReplicateKind
    effective_rank: Array
    """(N,)"""


@dataclass(frozen=True, eq=False)
class Capture:
    """Everything a comparison needs of one trace but the rows themselves."""

    trace_digest: str
    last: PositionsCapture
    all: PositionsCapture
    nll: Array
    """(P_c,) nats per token, of each scored continuation (or prompt)."""
    nll_prompts: npt.NDArray[np.int64]
    """(P_c,) index of the prompt each ``nll`` value belongs to."""
    directness: Array
    """(P,) d(p_0, p_D) / sum of L along the path, positions ``all``."""
    row_prompt: npt.NDArray[np.int64]
    """(K,) prompt of each gathered row."""
    row_is_last: npt.NDArray[np.bool_]
    """(K,) whether the row is its prompt's last position (positions ``last``)."""
    row_in_all: npt.NDArray[np.bool_]
    """(K,) whether the row is one of the strided lens positions (positions ``all``)."""

    scored_entropy: Array | None = None
    """(P_c,) mean entropy (nats) of the next-token distribution over the scored tokens."""
    nll_tempered: Array | None = None
    """(P_c, T) nats per token with logits divided by each of ``TEMPERATURES``."""
    end_log_p: Array | None = None
    """(P_c,) log probability of the end token after the whole continuation; NaN where there is no end token, or where
    the continuation was cut."""
    end_ids: npt.NDArray[np.int64] | None = None
    """(E,) ids after which text ends, ascending; empty where neither configuration nor tokenizer names one."""
    greedy_prompts: npt.NDArray[np.int64] | None = None
    """(G,) prompts that were continued greedily."""
    greedy_length: npt.NDArray[np.int64] | None = None
    """(G,) tokens before the end token, or all."""
    greedy_ended: npt.NDArray[np.bool_] | None = None
    """(G,) whether the end token came."""
    greedy_repetition: Array | None = None
    """(G,) share of 3-grams of a greedy continuation that came before in it; NaN below 4 tokens."""
    categories: tuple[str | None, ...] = ()
    """Category of each prompt, given or told from its script; empty where nothing tells prompts apart."""
    sample: npt.NDArray[np.int64] | None = None
    """(P,) all prompts in the order in which samples take them: a sample of n is the first n that it may hold."""

    def __post_init__(self) -> None:
        scored, prompts, continued = (len(self.nll),), len(self.directness), _length(self.greedy_prompts)
        expected = {
            "scored_entropy": scored,
            "nll_tempered": (*scored, len(TEMPERATURES)),
            "end_log_p": scored,
            "greedy_length": continued,
            "greedy_ended": continued,
            "greedy_repetition": continued,
            "sample": (prompts,),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} has the shape {value.shape} where {shape} was expected")
        if self.categories and len(self.categories) != prompts:
            raise ValueError(f"{len(self.categories)} categories of {prompts} prompts")

    def at(self, positions: str) -> PositionsCapture:
        """The values at positions ``last`` or ``all``."""
        return self.last if positions == "last" else self.all


def _length(value: np.ndarray | None) -> tuple[int, ...] | None:
    return None if value is None else (len(value),)


OPTIONAL = (
    "scored_entropy",
    "nll_tempered",
    "end_log_p",
    "end_ids",
    "greedy_prompts",
    "greedy_length",
    "greedy_ended",
    "greedy_repetition",
    "sample",
)
"""Arrays that captures of earlier releases, and of profile ``spinal/1``, do not have."""
ROWS_KEY = "rows"
"""Tensor (N, K, d) in the dtype of the blocks: residuals r_0..r_D at the gathered positions."""


def capture_tensors(capture: Capture) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The capture as named numpy arrays and string metadata (the engine adds ``rows`` and writes the file)."""
    arrays: dict[str, np.ndarray] = {
        name: np.ascontiguousarray(getattr(capture, name))
        for name in ("nll", "nll_prompts", "directness", "row_prompt", "row_is_last", "row_in_all")
    }
    arrays |= {name: np.ascontiguousarray(value) for name in OPTIONAL if (value := getattr(capture, name)) is not None}
    metadata = {"schema": "spinal.capture/1", "trace_digest": capture.trace_digest}
    if capture.categories:
        metadata["categories"] = json.dumps(capture.categories)
    for positions in POSITIONS:
        part = capture.at(positions)
        metadata[f"{positions}.replicate_kind"] = part.replicate_kind
        for field in fields(part):
            if field.name != "replicate_kind":
                arrays[f"{positions}.{field.name}"] = np.ascontiguousarray(getattr(part, field.name))
    return arrays, metadata


def load_capture(path: Path) -> Capture:
    """Read the numpy part of a capture file; raises CaptureMissing or DocumentInvalid."""
    if not path.is_file():
        raise CaptureMissing(f"capture {path.name} is not in the artifact store", hint="trace the checkpoint again")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys() if name != ROWS_KEY}  # noqa: SIM118  safe_open is no mapping
        parts = {
            positions: PositionsCapture(
                replicate_kind=cast(ReplicateKind, metadata[f"{positions}.replicate_kind"]),
                **{
                    field.name: arrays[f"{positions}.{field.name}"]
                    for field in fields(PositionsCapture)
                    if field.name != "replicate_kind"
                },
            )
            for positions in POSITIONS
        }
        return Capture(
            trace_digest=metadata["trace_digest"],
            last=parts["last"],
            all=parts["all"],
            nll=arrays["nll"],
            nll_prompts=arrays["nll_prompts"],
            directness=arrays["directness"],
            row_prompt=arrays["row_prompt"],
            row_is_last=arrays["row_is_last"],
            row_in_all=arrays["row_in_all"],
            categories=tuple(json.loads(metadata.get("categories", "[]"))),
            **{name: arrays[name] for name in OPTIONAL if name in arrays},
        )
    except (KeyError, ValueError, OSError, SafetensorError) as error:
        raise DocumentInvalid(f"capture {path.name} is damaged: {error}", hint="trace the checkpoint again") from error
