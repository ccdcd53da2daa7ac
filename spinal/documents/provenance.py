"""Where and with what a number was made. Reads versions of installed packages; imports none of them."""

import platform
import socket
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata

from spinal.documents.base import Provenance
from spinal.documents.editions import PRESENT, Edition
from spinal.text import rfc3339
from spinal.version import VERSION

PACKAGES = ("torch", "transformers", "safetensors", "numpy")


def make_provenance(
    *,
    device: str,
    dtype: str,
    threads: int,
    seed: int,
    command: Sequence[str] | None,
    started: float,
    edition: Edition = PRESENT,
) -> Provenance:
    """Provenance of work that began at ``started`` (``time.monotonic``) on this machine."""
    versions = {"spinal": VERSION, "engine": edition.engine}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return Provenance(
        created_at=rfc3339(datetime.now(UTC)),
        duration_s=time.monotonic() - started,
        hostname=socket.gethostname(),
        platform=platform.platform(),
        python=sys.version.split()[0],
        versions=versions,
        device=device,
        dtype=dtype,
        threads=threads,
        seed=seed,
        command=list(command) if command else None,
    )
