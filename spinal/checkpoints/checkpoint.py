"""A checkpoint folder as a value: where it lies, what its configuration says. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spinal.checkpoints.architecture import architecture_of, shape_of
from spinal.checkpoints.copies import Copy
from spinal.checkpoints.files import TOKENIZER, FileList


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder in Hugging Face layout, resolved; ``base`` is set for a PEFT adapter."""

    path: Path
    source: str
    """The reference as published, e.g. ``local:`` and the name below its root; no path of the machine."""
    config: dict[str, Any]
    revision: str | None = None
    """Commit, version or tag it is pinned to, where its source has one."""
    base: "Checkpoint | None" = None
    base_named: str | None = None
    """What an adapter's configuration names as its base, where another one takes its place."""
    lender: "Checkpoint | None" = None
    """Whose tokenizer reads the prompts, where it is not the checkpoint's own; of this folder nothing else is read."""
    vocabulary: int | None = None
    """Ids 0..n-1 are read, where those are fewer than the checkpoint's own: what the sides of a comparison share."""
    files: FileList = field(default=FileList((), ()))
    """The files that are read, and none beside them."""
    roots: tuple[Path, ...] | None = None
    """Folders below which every file has to lie, wherever links lead; None where any place will do."""
    unfollowed: tuple[str, ...] = ()
    """What its configuration says that is not followed."""
    copy: Copy | None = None
    """Its files on this host, where it lives elsewhere."""
    held: object | None = field(default=None, compare=False, repr=False)
    """Set by :func:`spinal.checkpoints.held.hold` while its files are held open."""

    @property
    def parts(self) -> "Iterator[Checkpoint]":
        """The folders it is made of: itself, and the base of an adapter."""
        yield self
        if self.base is not None:
            yield from self.base.parts

    @property
    def remarks(self) -> tuple[str, ...]:
        """What its reader should know: a base or a tokenizer that is not its own, what was not read, and what was not
        read as it is written."""
        unread = tuple(_unread(part) for part in self.parts if part.files.others)
        return (*_elsewhere(self), *unread, *(remark for part in self.parts for remark in part.unfollowed))

    @property
    def whole(self) -> "Checkpoint":
        """The checkpoint with the model's own configuration and tokenizer: this one, or the base of an adapter."""
        return self.base or self

    @property
    def tokenizing(self) -> "Checkpoint":
        """Where the tokenizer lies that reads the prompts."""
        return self.lender or self.whole

    @property
    def architecture(self) -> str:
        return architecture_of(self.config)

    @property
    def n_layers(self) -> int | None:
        return shape_of(self.config).n_layers

    @property
    def hidden_size(self) -> int | None:
        return shape_of(self.config).hidden_size

    @property
    def vocab_size(self) -> int | None:
        return shape_of(self.config).vocab_size

    @property
    def max_positions(self) -> int | None:
        """Longest prompt in tokens, rotary scaling included."""
        return shape_of(self.config).max_positions

    def weight_files(self) -> list[Path]:
        """The safetensors files that hold the weights, in the order in which they are read."""
        return [self.path / name for name in self.files.weights]


def _elsewhere(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.base is not None and checkpoint.base_named is not None:
        yield (
            f"the adapter names the base {checkpoint.base_named!r}; it was measured on {checkpoint.base.source}, whose "
            "shapes its tensors fit"
        )
    elif checkpoint.base is not None and checkpoint.base.copy is not None:
        # The adapter names no commit that cannot move.
        yield f"the adapter {checkpoint.source} was measured on {checkpoint.base.source}"
    if checkpoint.lender is not None:
        own = "another one" if TOKENIZER in checkpoint.whole.files.settings else "none"
        yield f"the tokenizer of {checkpoint.lender.source} read the prompts; {checkpoint.whole.source} holds {own}"


def _unread(checkpoint: Checkpoint) -> str:
    files = checkpoint.files
    more = f" and {'at least ' if files.uncounted else ''}{files.more} more" if files.more else ""
    return f"not part of {checkpoint.source} and not read: {', '.join(files.others)}{more}"
