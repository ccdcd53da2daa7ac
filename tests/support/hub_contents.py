"""Repositories as a hub keeps them: commits of whole trees, branches, tags, with the ids that git gives them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".h5", ".gguf", ".onnx", ".msgpack")
LFS_BYTES = 10 * 2**20
"""A larger file is kept beside git whatever it is called."""
FILE_MODE, FOLDER_MODE = "100644", "40000"


@dataclass(frozen=True)
class Blob:
    """One file of a commit: its content, in memory or on disk."""

    path: str
    content: bytes | Path

    @cached_property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @cached_property
    def lfs(self) -> bool:
        return self.path.endswith(LFS_SUFFIXES) or self.size > LFS_BYTES

    @cached_property
    def sha256(self) -> str:
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        with self.content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git holds of a file that is kept beside it."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        return git_id("blob", self.pointer if self.lfs else self.read())

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def read(self, start: int = 0, end: int | None = None) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[start:end]
        with self.content.open("rb") as file:
            file.seek(start)
            return file.read(-1 if end is None else end - start)


@dataclass(frozen=True)
class Commit:
    sha: str
    files: dict[str, Blob]

    @property
    def contents(self) -> dict[str, bytes | Path]:
        return {path: blob.content for path, blob in self.files.items()}

    def folder(self, path: str, *, recursive: bool) -> list[dict[str, object]]:
        """Entries as the hub's route of trees tells them: folders first, each by name."""
        below = f"{path}/" if path else ""
        inside = {each[len(below) :]: blob for each, blob in self.files.items() if each.startswith(below)}
        folders = {name.rpartition("/")[0] for name in inside if "/" in name}
        folders |= {str(parent) for name in folders for parent in Path(name).parents if str(parent) != "."}
        shown = sorted(name for name in folders if recursive or "/" not in name)
        entries: list[dict[str, object]] = [
            {"type": "directory", "oid": self._tree(below + name), "size": 0, "path": below + name} for name in shown
        ]
        return entries + [_entry(inside[name]) for name in sorted(inside) if recursive or "/" not in name]

    def _tree(self, path: str) -> str:
        return tree_id(
            {name[len(path) + 1 :]: each for name, each in self.files.items() if name.startswith(f"{path}/")}
        )


def _entry(blob: Blob) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "oid": blob.oid, "size": blob.size, "path": blob.path}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return entry


@dataclass
class Repository:
    """``gated`` shows its lists to everybody and its files to who may; ``private`` shows neither."""

    id: str
    gated: bool = False
    private: bool = False
    disabled: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    """Branch, tag or ``refs/pr/N`` -> commit."""

    def commit(self, files: Mapping[str, bytes | Path] | Path, *, branch: str = "main") -> str:
        """A commit whose whole tree is ``files``, or the folder; the branch moves there. Returns its id, which depends
        on the tree and on what came before, and on nothing else."""
        found = _below(files) if isinstance(files, Path) else files
        blobs = {path: Blob(path, content) for path, content in found.items()}
        parent = self.refs.get(branch)
        sha = commit_id(tree_id(blobs), parent)
        self.commits[sha] = Commit(sha, blobs)
        self.refs[branch] = sha
        return sha

    def tag(self, name: str, sha: str) -> None:
        self.refs[name] = sha

    def at(self, revision: str) -> Commit | None:
        """A short id of a commit is no revision, as on the hub."""
        return self.commits.get(self.refs.get(revision, revision))


def _below(folder: Path) -> dict[str, bytes | Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def git_id(kind: str, content: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def tree_id(blobs: Mapping[str, Blob]) -> str:
    entries: dict[str, tuple[str, str]] = {}
    folders: dict[str, dict[str, Blob]] = {}
    for path, blob in blobs.items():
        top, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(top, {})[rest] = blob
        else:
            entries[top] = (FILE_MODE, blob.oid)
    # Git sorts folders as if their names ended in a slash.
    entries |= {f"{name}/": (FOLDER_MODE, tree_id(inside)) for name, inside in folders.items()}
    lines = (
        f"{mode} {name.rstrip('/')}\0".encode() + bytes.fromhex(oid) for name, (mode, oid) in sorted(entries.items())
    )
    return git_id("tree", b"".join(lines))


def commit_id(tree: str, parent: str | None) -> str:
    who = "someone <someone@example.org> 1700000000 +0000"
    lines = [f"tree {tree}", *([f"parent {parent}"] if parent else []), f"author {who}", f"committer {who}"]
    return git_id("commit", ("\n".join(lines) + "\n\nfiles\n").encode())
