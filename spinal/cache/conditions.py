"""The conditions of a measurement, known without torch.

Only torch knows some of them (:mod:`spinal.engine.conditions`): how many threads it takes by itself, which kernels this
processor gets. They follow from what can be read without it. So what torch said is noted under a digest of all that,
and the next process that finds the same surroundings reads the note. Wherever something that decides them cannot be
read, there is no note, and torch is asked.
"""

import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import metadata, resources
from pathlib import Path

from spinal.cache.environment import cache_folder, library_settings
from spinal.documents.canonical import digest_of

MEASURING = ("torch", "transformers", "numpy", "tokenizers", "safetensors", "peft")
"""Packages whose versions decide conditions; the last ones may be absent."""
NEEDED = MEASURING[:3]
CPU_INFO, CPU_QUOTA = Path("/proc/cpuinfo"), Path("/sys/fs/cgroup/cpu.max")
NVIDIA, NODES = Path("/proc/driver/nvidia"), Path("/dev")
CPU_MEMBERS = ("vendor_id", "model name", "flags", "Features", "CPU part")


def surroundings(device: str, threads: int | None) -> str | None:
    """Digest of all that decides the conditions of a measurement by a fresh process on ``device``, with as many
    ``threads`` as were asked for; None where something of it cannot be known without torch."""
    versions = {package: _version(package) for package in MEASURING}
    gpus = [] if device == "cpu" else _gpus(device)
    if gpus is None or any(versions[package] is None for package in NEEDED):
        return None
    return digest_of(
        {
            "device": device,
            "gpus": gpus,
            "threads": threads,
            "cpus": [os.cpu_count(), _usable_cpus(), _text(CPU_QUOTA)],
            "cpu": [platform.machine(), platform.platform(), _cpu()],
            "python": sys.version,
            "prefix": sys.prefix,
            "versions": versions,
            "engine": engine_files(),
            "settings": digest_of(library_settings()),
        }
    )


def noted(around: str) -> dict[str, str] | None:
    """The conditions that were noted for these surroundings; None where there is no note, or a damaged one."""
    try:
        note = json.loads(_place(around).read_text(encoding="utf-8"))
        found = {str(name): str(value) for name, value in note["conditions"].items()}
        return found if note["sha256"] == digest_of(found) else None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        return None


def note(around: str, found: dict[str, str]) -> None:
    """Note conditions for the next process in these surroundings; where there is no place for it, torch is asked
    again."""
    with suppress(OSError, RuntimeError):
        place = _place(around)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, partial = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"conditions": found, "sha256": digest_of(found)}, file)
        Path(partial).replace(place)


def forget(around: str) -> None:
    """Remove a note that does not hold."""
    with suppress(OSError, RuntimeError):
        _place(around).unlink(missing_ok=True)


@cache
def engine_files() -> str:
    """sha256 over the files of the engine, and of the fit it uses."""
    return _sha256_of([*_sources("engine"), *(path for path in _sources("analysis") if path.name == "contraction.py")])


@cache
def scorer_files() -> str:
    """sha256 over the files that make a comparison of two traces and what a joint pass told."""
    return _sha256_of(_sources("analysis"))


def _sources(package: str) -> list[Path]:
    # Found beside the package, which is not imported: the engine would bring torch along.
    return sorted(Path(str(resources.files("spinal"))).joinpath(package).rglob("*.py"))


def _sha256_of(paths: Iterable[Path]) -> str:
    hasher = hashlib.sha256()
    for path in paths:
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


def _place(around: str) -> Path:
    return cache_folder("conditions") / f"{around}.json"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpus(device: str) -> list[str] | None:
    """What the driver says of this machine's GPUs, and which of them there are here; None where it says nothing."""
    if not device.startswith("cuda"):
        return None
    told = [_text(path) for path in (NVIDIA / "version", *sorted(NVIDIA.glob("gpus/*/information")))]
    nodes = sorted(path.name for path in NODES.glob("nvidia[0-9]*"))
    return [*told, *nodes] if all(told) and len(told) > 1 and nodes else None


def _cpu() -> str:
    """Name and features of the processor, as the system tells them."""
    lines = _text(CPU_INFO).partition("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(CPU_MEMBERS)) or platform.processor()


def _usable_cpus() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
