"""Small plots as inline SVG: series over depth with interval bands, parts of places with interval bars. Colours pass
for the colour-blind."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 34


@dataclass(frozen=True)
class Series:
    """Points (x, y) and, where known, bands (x, low, high). ``style`` picks a colour of the style sheet."""

    label: str
    style: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    apart: bool = False
    """Whether its points are places of their own: intervals are bars, and no line joins them."""


def plot(
    title: str,
    description: str,
    series: Sequence[Series],
    *,
    terminal: tuple[int, int],
    unit: str,
    axis: str = "layer",
    ticks: Mapping[int, str] | None = None,
) -> str:
    """One figure over layers, or over places with names of their own at ``ticks``; the terminal window is shaded. Empty
    series give an empty string."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return ""
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points] + [y for one in drawn for _, *ends in one.band for y in ends]
    scale = _Scale(min(xs), max(xs), min([*ys, 0.0]), max([*ys, 0.0]))
    parts = [
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">',
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>",
        _terminal(scale, terminal),
        _axes(scale, unit, axis, ticks or {}),
    ]
    for one in drawn:
        if one.apart:
            parts += [_bar(scale, one.style, x, low, high) for x, low, high in one.band]
        elif one.band:
            outline = [(x, high) for x, _, high in one.band] + [(x, low) for x, low, _ in reversed(one.band)]
            parts.append(f'<polygon class="band {one.style}" points="{_points(scale, outline)}"/>')
        if not one.apart:
            parts.append(f'<polyline class="line {one.style}" points="{_points(scale, one.points)}"/>')
        parts += [
            f'<circle class="dot {one.style}" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="2"/>'
            for x, y in one.points
        ]
    legend = "".join(f'<span class="key {one.style}">{escape(one.label)}</span>' for one in drawn)
    parts.append(f"</svg><figcaption><b>{escape(title)}</b> {legend}<br>{escape(description)}</figcaption></figure>")
    return "".join(parts)


class _Scale:
    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.x_low, self.x_high = x_low, max(x_high, x_low + 1)
        margin = (y_high - y_low) * 0.05 or 1.0
        self.y_low = y_low - (margin if y_low < 0 else 0.0)
        self.y_high = y_high + margin

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)


def _points(scale: _Scale, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in points)


def _terminal(scale: _Scale, terminal: tuple[int, int]) -> str:
    left, right = scale.x(terminal[0] - 0.5), scale.x(min(terminal[1] + 0.5, scale.x_high))
    return (
        f'<rect class="terminal" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'
    )


def _bar(scale: _Scale, style: str, x: float, low: float, high: float) -> str:
    at = f"{scale.x(x):.1f}"
    return f'<line class="bar {style}" x1="{at}" x2="{at}" y1="{scale.y(low):.1f}" y2="{scale.y(high):.1f}"/>'


def _round_values(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values, three to eight of them."""
    size = (high - low) / 7
    power = 10.0 ** math.floor(math.log10(size)) if size > 0.0 else 1.0
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= size), 10 * power)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _axes(scale: _Scale, unit: str, axis: str, ticks: Mapping[int, str]) -> str:
    parts = []
    for value in _round_values(scale.y_low, scale.y_high):
        y = scale.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3:.1f}" text-anchor="end">{value:.3g}</text>')
    span = scale.x_high - scale.x_low
    every = max(1, round(span / 8))
    numbered = {layer: str(layer) for layer in range(int(scale.x_low), int(scale.x_high) + 1, every)}
    # A number beside a name would run into it.
    free = {layer: name for layer, name in numbered.items() if all(abs(layer - at) > every / 2 for at in ticks)}
    for layer, name in {**free, **ticks}.items():
        x = scale.x(layer)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{escape(name)}</text>'
        )
    parts.append(
        f'<text class="tick" x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(axis)} ({escape(unit)})</text>"
    )
    zero = scale.y(0.0)
    parts.append(f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{zero:.1f}" y2="{zero:.1f}"/>')
    return "".join(parts)
