"""Where captures lie: an fsspec folder, content-addressed, written whole or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec

from service.settings import Settings
from spinal.errors import CaptureMissing


class ArtifactStore:
    """Files by name below one fsspec URL. Names are digests: the same name always holds the same measurement."""

    def __init__(self, settings: Settings) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(settings.artifact_url)
        self._scratch = settings.scratch_dir

    def uri(self, name: str) -> str:
        return f"captures/{name[:2]}/{name}.safetensors"

    def put(self, local: Path, name: str) -> tuple[str, int]:
        """Store a local file; returns (uri, bytes). The final name appears only when all bytes are there."""
        uri = self.uri(name)
        target = f"{self._root}/{uri}"
        self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        partial = f"{target}.{uuid4().hex}.partial"
        try:
            self._fs.put_file(str(local), partial)
            self._fs.mv(partial, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(partial)
        return uri, local.stat().st_size

    def exists(self, uri: str) -> bool:
        return bool(self._fs.exists(f"{self._root}/{uri}"))

    @contextlib.contextmanager
    def local_copy(self, uri: str) -> Iterator[Path]:
        """The stored file as a local path (no copy when it is local already); raises CaptureMissing."""
        source = f"{self._root}/{uri}"
        if not self._fs.exists(source):
            raise CaptureMissing(f"{uri} is not in the artifact store", hint="it is measured again by the next attempt")
        if "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,)):
            yield Path(source)
            return
        with self.scratch() as folder:
            local = folder / Path(source).name
            self._fs.get_file(source, str(local))
            yield local

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on local disk for files being written."""
        if self._scratch is not None:
            self._scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="spinal-capture-", dir=self._scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
