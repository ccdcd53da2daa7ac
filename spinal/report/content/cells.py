"""Numbers and tables as plain text, however they are drawn."""

from dataclasses import dataclass

from spinal.documents.base import Estimate

DASH = "–"


@dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    narrow: tuple[int, ...] = ()
    """Columns that stay where there is no room for all."""

    def narrowed(self) -> "Table":
        """The table with the columns that matter most."""
        if not self.narrow:
            return self
        cells = tuple(tuple(row[i] for i in self.narrow) for row in self.rows)
        left = ", ".join(name for i, name in enumerate(self.header) if i not in self.narrow)
        note = f"{self.note} Left out at this width: {left}.".strip()
        return Table(self.title, tuple(self.header[i] for i in self.narrow), cells, note)


def number(value: float | None, digits: int = 3) -> str:
    """A value with sensible digits; a dash for a null."""
    if value is None:
        return DASH
    if value == 0.0:
        return "0"
    return f"{value:.{digits}g}" if abs(value) < 1e4 else f"{value:.3e}"


def interval(ci: tuple[float, float] | None, digits: int = 3) -> str:
    return "" if ci is None else f"[{number(ci[0], digits)}, {number(ci[1], digits)}]"


def estimate(found: Estimate, digits: int = 3) -> str:
    """``value [low, high]``, starred where it stands after correction over layers; the reason for a null."""
    if found.value is None:
        return DASH
    star = " *" if found.significant else ""
    return f"{number(found.value, digits)} {interval(found.ci, digits)}{star}".replace("  ", " ").strip()


def percent(share: float) -> str:
    """A share in per cent, with a digit more where it is small: ``21%``, ``0.8%``; never -0."""
    text = f"{100 * share:.0f}" if abs(share) >= 0.0995 else f"{100 * share:.1f}"
    return "0%" if float(text) == 0.0 else f"{text}%"
