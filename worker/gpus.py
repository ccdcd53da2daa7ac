"""One GPU for each worker child: which there are, and whose is which.

A child takes the lock file of one GPU and keeps it for as long as it lives, so that a killed child's GPU is free for
the one that replaces it. It sees no other GPU: ``CUDA_VISIBLE_DEVICES`` is set before torch is imported. Where
``SPINAL_DEVICE`` is not plain ``cuda`` (``cpu``, or ``cuda:1``, which names one), nothing is taken.

``python -m worker.gpus`` prints the GPUs that workers started here share out, one a line: so many children are enough.
"""

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from service.settings import Settings, get_settings

log = structlog.get_logger(__name__)
VISIBLE = "CUDA_VISIBLE_DEVICES"
LOOK_AGAIN_S = 0.5
SAY_AGAIN_S = 60.0
NVIDIA_SMI_TIMEOUT_S = 60.0
"""Where the driver has to start first, asking takes seconds for each GPU."""
DRIVER_FILES = Path("/proc/driver/nvidia/gpus")

_held: list[int] = []
"""The descriptor of this process's lock. Never closed: the kernel frees it with the process, however that ends."""


def own_one(settings: Settings) -> str | None:
    """Take a GPU for this process and hide all others; None where the device is not plain ``cuda``.

    Returns only with a GPU. While others hold all of them (more children than GPUs), or none is found, this process
    takes no work, and says so once a minute.
    """
    if settings.device != "cuda":
        return None
    said: float | None = None
    while True:
        known = usable_gpus(settings.gpus, os.environ)
        taken = take_free(known, settings.gpu_lock_dir)
        if taken is not None:
            os.environ[VISIBLE] = taken
            log.info("took a GPU", gpu=taken)
            return taken
        if said is None or time.monotonic() - said > SAY_AGAIN_S:
            said = time.monotonic()
            _say_why_none(known)
        time.sleep(LOOK_AGAIN_S)


def _say_why_none(known: Sequence[str]) -> None:
    if known:
        log.error(
            "no GPU is free: this worker child takes no work",
            gpus=list(known),
            hint="start no more worker children (--concurrency) on a host than it has GPUs",
        )
    else:
        log.error(
            "no GPU found: this worker child takes no work",
            hint="nvidia-smi must list it; or name it with SPINAL_GPUS, or set SPINAL_DEVICE=cpu",
        )


def take_free(gpus: Sequence[str], folder: Path) -> str | None:
    """Lock the first of ``gpus`` that no process holds, for the rest of this process's life; None when all are held.

    All workers of a host must use the same ``folder``.
    """
    _open_to_all(folder)
    for gpu in gpus:
        path = folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', gpu)}.lock"
        descriptor = _open_lock(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A file that was removed meanwhile keeps nobody else away.
            held = os.stat(path).st_ino == os.fstat(descriptor).st_ino
        except (BlockingIOError, FileNotFoundError):
            held = False
        if held:
            _held.append(descriptor)
            return gpu
        os.close(descriptor)
    return None


def _open_to_all(folder: Path) -> None:
    """Make ``folder`` such that workers of other users lock there, too."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    folder.chmod(0o1777)


def _open_lock(path: Path) -> int:
    try:
        # Not created if it is there: Linux may refuse that for another user's file in a folder open to all.
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        os.fchmod(descriptor, 0o644)
        return descriptor


def usable_gpus(named: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that workers of this host share out, as ``CUDA_VISIBLE_DEVICES`` takes them: those ``named`` (setting
    ``gpus``), else those that the environment leaves visible, else all.

    Numbers become UUIDs where the driver tells them, so that a GPU has one name whoever counts; they count as
    ``nvidia-smi`` does. A GPU that is parted (MIG) stands for its parts.
    """
    asked: list[str] | None = None
    if named:
        asked = [name.strip() for name in named]
    elif VISIBLE in environment:
        asked = _until_invalid(environment[VISIBLE].split(","))
    installed = installed_gpus()
    if asked is None:
        return tuple(part for gpu in installed for part in gpu)
    found = [part for name in asked for part in _parts(name, installed)]
    return tuple(dict.fromkeys(found))


def _until_invalid(names: Sequence[str]) -> list[str]:
    """CUDA ignores everything from the first name on that is none, such as -1."""
    kept: list[str] = []
    for name in (name.strip() for name in names):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", name):
            break
        kept.append(name)
    return kept


def _parts(name: str, installed: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    if name.isdigit():
        return installed[int(name)] if int(name) < len(installed) else (name,)
    whole = [part for gpu in installed for part in gpu if part.startswith(name)]
    return tuple(whole) if len(whole) == 1 else (name,)


def installed_gpus() -> list[tuple[str, ...]]:
    """Every GPU of this host by UUID, in the order of ``nvidia-smi``; one that is parted (MIG) as the UUIDs of its
    parts. Asks the driver, never torch: a process that has started CUDA cannot hide GPUs from itself any more."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=NVIDIA_SMI_TIMEOUT_S
        ).stdout
    except (OSError, subprocess.SubprocessError):
        files = sorted(DRIVER_FILES.glob("*/information"))
        listed = "\n".join(file.read_text(errors="replace") for file in files)
    return parse_gpus(listed)


def parse_gpus(listed: str) -> list[tuple[str, ...]]:
    """UUIDs in what ``nvidia-smi -L``, or the driver's files, say.

    >>> parse_gpus("GPU 0: A (UUID: GPU-1)\\n  MIG 1g.5gb Device 0: (UUID: MIG-2)\\nGPU 1: A (UUID: GPU-3)")
    [('MIG-2',), ('GPU-3',)]
    """
    found: list[tuple[str, ...]] = []
    for uuid in re.findall(r"UUID:\s*((?:GPU|MIG)-[^\s)]+)", listed):
        if uuid.startswith("GPU-"):
            found.append((uuid,))
        elif found:
            found[-1] = (*(part for part in found[-1] if part.startswith("MIG-")), uuid)
    return found


def main() -> int:
    for gpu in usable_gpus(get_settings().gpus, os.environ):
        sys.stdout.write(f"{gpu}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
