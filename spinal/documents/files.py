"""The files of one checkpoint folder by name and content, as they were hashed while they were read."""

from functools import cached_property

from spinal.documents.base import Digest, Document
from spinal.documents.canonical import digest_of

WEIGHTS_SUFFIX = ".safetensors"


class FileDigests(Document):
    """What a weights digest is made of. So whoever has one of the two can hold the other to it."""

    files: dict[str, Digest]
    """sha256 of every file that makes the checkpoint what it is, by its name in the folder."""
    base: Digest | None = None
    """Weights digest of the checkpoint that an adapter adapts."""

    @cached_property
    def weights_digest(self) -> str:
        return digest_of({"files": self.files, "base": self.base})

    @property
    def weights(self) -> dict[str, str]:
        """Those that hold weights."""
        return {name: found for name, found in self.files.items() if name.endswith(WEIGHTS_SUFFIX)}
