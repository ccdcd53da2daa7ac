"""``spinal trace`` and ``spinal compare``: the engine in this process, no server."""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from spinal.analysis.compare import compare
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.pair import check_pair
from spinal.checkpoints.resolve import resolve_reference
from spinal.cli.progress import bar
from spinal.documents.capture import load_capture
from spinal.documents.comparison import Comparison
from spinal.documents.provenance import make_provenance
from spinal.documents.trace import Trace
from spinal.errors import ProfileInvalid, UsageError
from spinal.profile import MeasurementProfile
from spinal.prompts.load import load_prompts
from spinal.prompts.sets import PromptSet


def build_profile(knobs: dict[str, Any]) -> MeasurementProfile:
    """A profile from the knobs that were given; raises ProfileInvalid."""
    given = {name: value for name, value in knobs.items() if value is not None}
    if "lens_positions" in given and given["lens_positions"] != "full":
        try:
            given["lens_positions"] = int(given["lens_positions"])
        except ValueError:
            raise ProfileInvalid(
                f"lens_positions: {given['lens_positions']!r} is neither a number nor 'full'", hint="for example 16"
            ) from None
    try:
        return MeasurementProfile(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0] if first["loc"] else "profile"
        raise ProfileInvalid(f"{name}: {first['msg']}", hint="spinal trace --help lists the knobs") from error


def local_trace(
    model: str,
    prompts_from: str,
    profile: MeasurementProfile,
    *,
    device: str,
    threads: int | None,
    stream: bool = False,
) -> Trace:
    """Measure one checkpoint."""
    prompts = load_prompts(prompts_from)
    checkpoint = resolve_reference(model, roots=None)
    inspect(checkpoint)
    engine = _engine(threads)
    with tempfile.TemporaryDirectory(prefix="spinal-") as folder:
        return _measure(engine, checkpoint, prompts, profile, device, stream, Path(folder) / "capture.safetensors")


def local_compare(
    reference: str,
    candidate: str,
    prompts_from: str,
    profile: MeasurementProfile,
    *,
    device: str,
    threads: int | None,
    stream: bool = False,
    control: str | None = None,
) -> Comparison:
    """Measure two checkpoints (and a control) and compare them; all are checked before any weight is loaded."""
    prompts = load_prompts(prompts_from)
    named = [reference, candidate] if control is None else [reference, candidate, control]
    sides = [resolve_reference(name, roots=None) for name in named]
    for side in sides:
        inspect(side)
        check_pair(sides[0], side)
    engine = _engine(threads)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spinal-") as folder:
        paths = [Path(folder) / name for name in ("reference", "candidate", "control")]
        traces = [
            _measure(engine, side, prompts, profile, device, stream, path)
            for side, path in zip(sides, paths, strict=False)
        ]
        with bar("comparing") as show:
            evidence = engine.gather_evidence(
                sides[0], sides[1], reference_capture=paths[0], candidate_capture=paths[1], prompts=prompts,
                profile=profile, device=device, stream=stream, progress=show,
            )  # fmt: skip
        provenance = make_provenance(
            device=evidence.device,
            dtype=evidence.dtype,
            threads=traces[0].provenance.threads,
            seed=profile.seed,
            command=_command(),
            started=started,
        )
        captures = [load_capture(path) for path in paths[: len(traces)]]
        return compare(
            traces[0], captures[0], traces[1], captures[1], evidence, profile, provenance,
            control=None if control is None else (traces[2], captures[2]),
        )  # fmt: skip


def _measure(
    engine: ModuleType,
    checkpoint: Checkpoint,
    prompts: PromptSet,
    profile: MeasurementProfile,
    device: str,
    stream: bool,
    capture_path: Path,
) -> Trace:
    with bar(checkpoint.source) as show:
        trace: Trace = engine.measure(
            checkpoint,
            prompts,
            profile,
            capture_path=capture_path,
            device=device,
            stream=stream,
            progress=show,
            command=_command(),
        )
    return trace


def _command() -> Sequence[str]:
    return ["spinal", *sys.argv[1:]]


def _engine(threads: int | None) -> ModuleType:
    """The engine module; torch is imported here and nowhere else on the command line."""
    try:
        from spinal.engine import api
        from spinal.engine.threads import set_threads
    except ModuleNotFoundError as error:
        raise UsageError(f"measuring needs the package {error.name!r}", hint="pip install 'spinal[worker]'") from error
    if threads is not None:
        set_threads(threads)
    return api
