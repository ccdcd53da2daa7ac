"""The measuring engine as a worker sees it: what it must offer, and how it is loaded."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from service.settings import Settings
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.documents.evidence import PairEvidence
from spinal.documents.trace import Trace
from spinal.profile import MeasurementProfile
from spinal.progress import CancelCheck, ProgressSink
from spinal.prompts.sets import PromptSet


class MeasuringEngine(Protocol):
    """What a worker needs of an engine module (``spinal.engine.api``)."""

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
    ) -> Trace: ...

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
    ) -> PairEvidence: ...


def load_engine(name: str) -> MeasuringEngine:
    """The engine module ``name``; importing it brings torch into this process."""
    return cast(MeasuringEngine, import_module(name))


def engine_with_threads(settings: Settings) -> MeasuringEngine:
    """The engine of the settings, held to their number of threads."""
    if settings.engine.startswith("spinal.engine"):
        from spinal.engine.threads import set_threads

        set_threads(settings.torch_threads)
    return load_engine(settings.engine)
