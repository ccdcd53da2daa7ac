"""Where an engine keeps what the next call of the same process can use again. No torch, and nothing of an engine."""

WARM_BYTES = 2 * 2**30
"""What is kept where nobody says otherwise."""


class Warm:
    """One place, of bounded size, for what an engine keeps between its calls in one process.

    An engine takes what is there when a call begins and puts it back when the call has succeeded: a call that fails or
    is cancelled leaves the place empty, whatever it was in the middle of. Not for several threads at once. What is kept
    changes no number.

    Examples
    --------
    >>> warm = Warm(limit_bytes=1024)
    >>> warm.put("kept")
    >>> warm.take(), warm.take()
    ('kept', None)
    """

    def __init__(self, limit_bytes: int = 0) -> None:
        """``limit_bytes``: most bytes that may be kept; 0 keeps nothing."""
        self.limit_bytes = limit_bytes
        self._kept: object | None = None

    def take(self) -> object | None:
        """What was put here last, which is here no more; None where there is nothing."""
        kept, self._kept = self._kept, None
        return kept

    def put(self, kept: object) -> None:
        """Keep this until it is taken."""
        self._kept = kept
