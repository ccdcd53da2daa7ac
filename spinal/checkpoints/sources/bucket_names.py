"""What references to folders in buckets mean."""

import re
from dataclasses import dataclass

from spinal.errors import ModelReferenceInvalid
from spinal.errors.faults import shown

MOST_KEY = 1024
"""Bytes of UTF-8: the longest key of an object in either kind of store."""
LONGEST_NAME = 200
"""Of a file in the folder."""
BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9_-]|\.(?!\.)){1,220}[a-z0-9]")
PIN = re.compile(r"(?P<place>.*)@(?P<pin>[0-9a-f]{32})", re.DOTALL)
"""What ends like this is pinned. A folder with such a name is written with a slash behind it."""


@dataclass(frozen=True)
class Place:
    """A folder in a bucket."""

    scheme: str
    bucket: str
    folder: str
    """Without slashes at its ends; "" for the bucket itself."""

    @property
    def name(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.folder}" if self.folder else f"{self.scheme}://{self.bucket}"

    @property
    def prefix(self) -> str:
        """What keys of its files begin with."""
        return f"{self.folder}/" if self.folder else ""


def parse(scheme: str, path: str) -> tuple[Place, str | None]:
    """The folder that ``//bucket/prefix`` names, and its pin. Raises ModelReferenceInvalid."""
    pinned = PIN.fullmatch(path)
    place = pinned["place"] if pinned else path
    bucket, _, rest = place.removeprefix("//").partition("/")
    folder = rest.removesuffix("/")
    said = shown(f"{scheme}:{path}")
    if not place.startswith("//") or not BUCKET.fullmatch(bucket):
        raise ModelReferenceInvalid(f"{said} names no bucket", hint=f"write {scheme}://bucket/folder")
    if not folder.isprintable() or (rest and any(part in ("", ".", "..") for part in folder.split("/"))):
        raise ModelReferenceInvalid(
            f"{said} names no folder in a bucket", hint="no empty parts, no . or .., no invisible characters"
        )
    if len(folder.encode("utf-8", "surrogatepass")) > MOST_KEY - 1 - LONGEST_NAME:
        raise ModelReferenceInvalid(f"{said} is longer than the keys of its files can be")
    return Place(scheme, bucket, folder), pinned["pin"] if pinned else None
