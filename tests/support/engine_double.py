"""A measuring engine without a model, for tests of the machinery around it
(``SPINAL_ENGINE=tests.support.engine_double``).

It measures nothing and takes no time, but keeps every promise of the real one: digests, documents, captures,
progress, cancellation. Files in the folder named by ``SPINAL_DOUBLE_DIR`` steer it: ``hold`` stops it until the file
is gone, ``pace`` holds the most seconds a call may take, ``deaf`` makes it ignore cancellation meanwhile, ``silent``
stops its progress reports, ``stuck`` makes one call keep the interpreter to itself for ever, ``kernel`` makes one stay
in native code for very long, ``fail`` holds the code of an error to raise, ``crash`` on each line the name of a
library's error (``CRASHES``) that is raised once. ``log`` gets one line for every call: the process, what was asked and
of which checkpoint; ``measured`` one for every call that reached its end: the run and the attempt of the worker, and
what was asked; ``busy-PID`` is there while that process is in a call.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file
from structlog.contextvars import get_contextvars

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.identity import weights_digest
from spinal.checkpoints.pair import reading_of
from spinal.checkpoints.settings import setting_differences
from spinal.documents.capture import WriteCapture, capture_tensors, write_once
from spinal.documents.editions import PRESENT, Edition
from spinal.documents.evidence import AccountEvidence, PairEvidence
from spinal.documents.trace import Trace, stamp_profile, trace_digest
from spinal.errors import Cancelled, all_errors
from spinal.profile import MeasurementProfile
from spinal.progress import CancelCheck, Progress, ProgressSink, ignore_progress, never_cancelled
from spinal.prompts.sets import PromptSet
from tests.support import fabricated
from tests.support.waiting import until

LONGEST_S = 3600.0
"""So long a test may hold a call."""


def measure(
    checkpoint: Checkpoint,
    prompts: PromptSet,
    profile: MeasurementProfile,
    *,
    capture_path: Path,
    device: str = "cpu",
    progress: ProgressSink = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
    edition: Edition = PRESENT,
    write_capture: WriteCapture = write_once,
    **_: Any,
) -> Trace:
    with _call("measure", checkpoint.source):
        _with_less_memory(profile, device, lambda: _work(progress, cancelled))
    trace = _trace(checkpoint, prompts, profile, edition)
    arrays, metadata = capture_tensors(fabricated.capture(trace, len(prompts), seed=1))
    write_capture(lambda: save_file(arrays, capture_path, metadata))
    return trace


def check_same_ids(_sides: Any, _prompts: PromptSet, _profile: MeasurementProfile) -> None:
    """Whatever the tokenizers are: they agree."""


def gather_evidence(
    reference: Checkpoint,
    candidate: Checkpoint,
    *,
    prompts: PromptSet,
    profile: MeasurementProfile,
    progress: ProgressSink = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
    **_: Any,
) -> PairEvidence:
    with _call("compare", candidate.source):
        _work(progress, cancelled)
    made = fabricated.evidence(candidate.n_layers or 1, len(prompts))
    return replace(made, settings=setting_differences(reference, candidate))


def gather_accounts(
    reference: Checkpoint,
    candidate: Checkpoint,
    *,
    progress: ProgressSink = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
    **_: Any,
) -> tuple[AccountEvidence, ...]:
    """No account; ``reference`` is only what another engine would compare with."""
    del reference
    with _call("account", candidate.source):
        _work(progress, cancelled)
    return ()


def _trace(checkpoint: Checkpoint, prompts: PromptSet, profile: MeasurementProfile, edition: Edition) -> Trace:
    weights = weights_digest(checkpoint)
    made = fabricated.trace(checkpoint.source, checkpoint.n_layers or 1, len(prompts), digest=prompts.digest)
    model = made.model.model_copy(update={"source": checkpoint.source, "weights_digest": weights})
    reading = reading_of(checkpoint)
    digest = trace_digest(weights, prompts.digest, profile.fingerprint_under(edition.scheme), edition.engine, reading)
    engine = made.engine.model_copy(update={"version": edition.engine})
    return made.model_copy(
        update={
            "model": model,
            "digest": digest,
            "profile": stamp_profile(profile, edition),
            "engine": engine,
            "reading": reading,
        }
    )


@contextlib.contextmanager
def _call(what: str, source: str) -> Iterator[None]:
    folder = Path(os.environ["SPINAL_DOUBLE_DIR"])
    with (folder / "log").open("a") as log:
        log.write(f"{os.getpid()} {what} {source}\n")
    busy = folder / f"busy-{os.getpid()}"
    busy.touch()
    try:
        yield
        # A worker binds them to every line of its log.
        bound = get_contextvars()
        with (folder / "measured").open("a") as measured:
            measured.write(f"{bound.get('run_id')} {bound.get('attempt')} {what}\n")
    finally:
        busy.unlink()


def _work(progress: ProgressSink, cancelled: CancelCheck) -> None:
    folder = Path(os.environ["SPINAL_DOUBLE_DIR"])
    pace = folder / "pace"
    ready = time.monotonic() + (random.uniform(0.0, float(pace.read_text())) if pace.exists() else 0.0)
    done = 0

    def last_step() -> bool:
        """Whether the step that is made here was the last."""
        nonlocal done
        if not (folder / "silent").exists():
            progress(Progress("walk", done, done + 1, 0.5))
        if cancelled() and not (folder / "deaf").exists():
            raise Cancelled("cancelled in phase walk")
        if (folder / "fail").exists():
            code = (folder / "fail").read_text()
            raise all_errors()[code]("asked for by the test")
        with contextlib.suppress(FileNotFoundError):
            (folder / "kernel").unlink()
            # Computes without the interpreter, and no signal interrupts it.
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
        with contextlib.suppress(FileNotFoundError):
            (folder / "stuck").unlink()
            ctypes.PyDLL(None).pause()
        with contextlib.suppress(FileNotFoundError):
            names = (folder / "crash").read_text().splitlines()
            # Empty while a test is writing it: other processes look at it all the time.
            if names:
                if names[1:]:
                    (folder / "crash").write_text("\n".join(names[1:]))
                else:
                    (folder / "crash").unlink()
                _crash(names[0])
        done += 1
        return not (folder / "hold").exists() and time.monotonic() >= ready

    until(last_step, "the test to let the measurement end", timeout=LONGEST_S, every=0.02)


def _crash(name: str) -> None:
    """As in the real engine, where the same guard stands around every call; torch comes only with the crash."""
    from spinal.engine.failures import device_failures

    with device_failures():
        raise CRASHES[name]()


def _with_less_memory(profile: MeasurementProfile, device: str, work: Callable[[], None]) -> None:
    """As in the real engine; torch comes only for the tests of it."""
    asked = ""
    # Another process may take it at any moment.
    with contextlib.suppress(FileNotFoundError):
        asked = (Path(os.environ["SPINAL_DOUBLE_DIR"]) / "crash").read_text()
    if "device out of memory" not in asked:
        return work()
    from spinal.engine.memory import with_less_memory

    return with_less_memory(lambda _: work(), profile, device)


def _device_out_of_memory() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _device_side_assert() -> Exception:
    import torch

    return torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")


CRASHES: dict[str, Callable[[], Exception]] = {
    "device-side assert": _device_side_assert,
    "device out of memory": _device_out_of_memory,
    "host out of memory": MemoryError,
    "disk full": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "capture.safetensors"),
    "bug": lambda: ZeroDivisionError("division by zero"),
}


def measured(folder: Path) -> list[tuple[str, str, str]]:
    """(run, attempt, what) of every call so far that reached its end."""
    path = folder / "measured"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [(run, attempt, what) for run, attempt, what in (line.split() for line in lines)]


def calls(folder: Path) -> list[tuple[int, str, str]]:
    """(process, what, checkpoint) of every call so far."""
    path = folder / "log"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [(int(pid), what, source) for pid, what, source in (line.split(" ", 2) for line in lines)]
