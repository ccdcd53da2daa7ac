"""What is needed of a measuring engine, and how one is found. Nothing here brings torch into the process before it is
asked for.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.documents.capture import WriteCapture
from spinal.documents.editions import Edition
from spinal.documents.evidence import AccountEvidence, PairEvidence
from spinal.documents.trace import Trace
from spinal.profile import MeasurementProfile
from spinal.progress import CancelCheck, ProgressSink
from spinal.prompts.sets import PromptSet
from spinal.warm import Warm

ENGINE = "spinal.engine.api"


class MeasuringEngine(Protocol):
    """What is needed of an engine module (``spinal.engine.api``)."""

    def measure(
        self,
        checkpoint: Checkpoint,
        prompts: PromptSet,
        profile: MeasurementProfile,
        *,
        capture_path: Path,
        device: str,
        stream: bool,
        progress: ProgressSink,
        cancelled: CancelCheck,
        command: Sequence[str] | None,
        edition: Edition,
        warm: Warm = ...,
        write_capture: WriteCapture = ...,
    ) -> Trace: ...

    def check_same_ids(self, sides: Sequence[Checkpoint], prompts: PromptSet, profile: MeasurementProfile) -> None: ...

    def gather_evidence(
        self,
        reference: Checkpoint,
        candidate: Checkpoint,
        *,
        reference_capture: Path,
        candidate_capture: Path,
        prompts: PromptSet,
        profile: MeasurementProfile,
        device: str,
        stream: bool,
        progress: ProgressSink,
        cancelled: CancelCheck,
        warm: Warm = ...,
    ) -> PairEvidence: ...

    def gather_accounts(
        self,
        reference: Checkpoint,
        candidate: Checkpoint,
        *,
        prompts: PromptSet,
        profile: MeasurementProfile,
        device: str,
        stream: bool,
        progress: ProgressSink,
        cancelled: CancelCheck,
    ) -> tuple[AccountEvidence, ...]: ...


def load_engine(name: str = ENGINE) -> MeasuringEngine:
    """The engine module ``name``; importing it brings torch into this process."""
    return cast(MeasuringEngine, import_module(name))
