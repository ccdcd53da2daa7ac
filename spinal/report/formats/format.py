"""What every format of a report has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace


@dataclass(frozen=True)
class Format:
    """One way to write a trace or a comparison as a file."""

    name: str
    """As ``?format=`` of the API takes it."""
    suffixes: tuple[str, ...]
    """Endings of file names that ask for it, the usual one first."""
    media_type: str
    render: Callable[[Trace | Comparison], str]
    """Pure: the same document gives the same text."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What a server sends with it."""
