"""What a kind of prompt file is, and what all of them share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from spinal.errors import PromptSetInvalid
from spinal.prompts.gathered import Gathered

COMMENTS = ("#", "//")


@dataclass(frozen=True)
class Source:
    """A prompt file in memory, unpacked."""

    name: str
    """File name without folders: what it is called in errors, and a hint at what it holds."""
    raw: bytes

    @cached_property
    def text(self) -> str:
        """Raises PromptSetInvalid for what is not UTF-8."""
        try:
            text = self.raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise PromptSetInvalid(
                f"{self.name} is not UTF-8 (byte {error.start})", hint="convert the file to UTF-8"
            ) from error
        # Lines end in a lone carriage return in files of old spreadsheets.
        return text if "\n" in text else text.replace("\r", "\n")

    @cached_property
    def lines(self) -> list[str]:
        """Without the empty one behind the last line break."""
        lines = self.text.split("\n")
        return lines[:-1] if lines[-1] == "" else lines

    @cached_property
    def suffix(self) -> str:
        """``.csv`` of ``prompts.CSV.gz``."""
        return PurePath(self.name.lower().removesuffix(".gz")).suffix

    def where(self, line: int) -> str:
        return f"{self.name}, line {line}"

    def significant(self) -> Iterator[tuple[int, str]]:
        """Number (from 1) and text of every line that is neither blank nor a comment of ``#`` or ``//``."""
        for number, line in enumerate(self.lines, start=1):
            if line.strip() and not line.lstrip().startswith(COMMENTS):
                yield number, line

    @cached_property
    def first(self) -> str:
        """The first significant line, stripped; empty where there is none."""
        return next((line.strip() for _, line in self.significant()), "")

    @cached_property
    def body(self) -> str:
        """The text from the first significant line on."""
        start = next((number for number, _ in self.significant()), len(self.lines) + 1)
        return "\n".join(self.lines[start - 1 :])


@dataclass(frozen=True)
class FileFormat:
    """One way to write prompts into a file."""

    name: str
    knows: Callable[[Source], bool]
    """Whether the file is of this format, by its content first and by its name where that leaves it open."""
    read: Callable[[Source], Gathered]
    """Raises PromptSetInvalid, naming the line."""
