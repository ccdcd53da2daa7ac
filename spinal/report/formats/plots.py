"""Plots of a report, by the section that they belong to."""

from collections.abc import Callable

from spinal.documents.account import READ_OUTS, Account
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, LayerComparison
from spinal.documents.trace import Trace
from spinal.report.svg import Series, plot

PLACES = {"embeddings": "E", "read-out": "R", "configuration": "C"}


def plots(document: Trace | Comparison, about: str) -> str:
    """The figures of one section as SVG; an empty string where it has none."""
    if isinstance(document, Trace):
        return _trace_plots(document) if about == "trace" else ""
    drawn = {"carries": _account_plots, "computes": _block_plots, "strength": _signature_plots}.get(about)
    return "" if drawn is None else drawn(document)


def _account_plots(result: Comparison) -> str:
    figures = []
    for name, account in result.accounts.items():
        control = result.control_accounts.get(name)
        series = [_parts("candidate", "a", account, 0.0 if control is None else -0.15)]
        if control is not None:
            series.append(_parts("control", "b", control, 0.15))
        last = len(result.layers) - 1
        at = {place: index for index, place in enumerate(_order(account))}
        figures.append(
            plot(
                f"What carries {READ_OUTS.get(name, name)}",
                "Parts of the total by place, nats; bars: 95% intervals. E embeddings, R read-out"
                + (", C configuration." if "configuration" in at else "."),
                series,
                terminal=(result.scores.terminal_window[0], last),
                unit="nats",
                axis="place",
                ticks={at[place]: short for place, short in PLACES.items() if place in at},
            )
        )
    return "".join(figures)


def _order(account: Account) -> list[str]:
    return [part.place for part in account.places]


def _parts(label: str, style: str, account: Account, shift: float) -> Series:
    known = [(index + shift, part.phi) for index, part in enumerate(account.places)]
    points = [(x, found.value) for x, found in known if found.value is not None]
    band = [(x, *found.ci) for x, found in known if found.ci is not None]
    return Series(label, style, points, band, apart=True)


def _block_plots(result: Comparison) -> str:
    layers, terminal = result.layers, result.scores.terminal_window
    weights = [(float(layer.layer), layer.weight_change) for layer in layers if layer.weight_change is not None]
    figures = [
        plot(
            "Block swap", "Change of what each block computes, relative to its own update; band: 95% interval.",
            [_series("candidate", "a", layers, lambda layer: layer.block_swap)], terminal=terminal, unit="relative",
        ),
        plot(
            "Function gap", "Distance of both checkpoints' next-token distributions at the same layer.",
            [
                _series("all", "a", layers, lambda layer: layer.function_gap.all),
                _series("last", "b", layers, lambda layer: layer.function_gap.last),
            ], terminal=terminal, unit="radians",
        ),
        plot(
            "Weight change", "Relative Frobenius change of each block's parameters, which may move where the function "
            "does not.",
            [Series("candidate", "a", weights)], terminal=terminal, unit="relative",
        ),
    ]  # fmt: skip
    return "".join(figures)


def _signature_plots(result: Comparison) -> str:
    layers, terminal = result.layers, result.scores.terminal_window
    figures = [
        plot(
            "d alpha", "Change of contraction; positive is stronger contraction. Both positions (last and all).",
            [
                _series("all", "a", layers, lambda layer: layer.d_contraction.all),
                _series("last", "b", layers, lambda layer: layer.d_contraction.last),
            ], terminal=terminal, unit="alpha",
        ),
        plot(
            "d L", "Change of transport into the layer; negative is a shorter step. Both positions (last and all).",
            [
                _series("all", "a", layers[2:], lambda layer: layer.d_transport.all),
                _series("last", "b", layers[2:], lambda layer: layer.d_transport.last),
            ], terminal=terminal, unit="radians",
        ),
    ]  # fmt: skip
    return "".join(figures)


def _series(
    label: str, style: str, layers: tuple[LayerComparison, ...], pick: Callable[[LayerComparison], Estimate]
) -> Series:
    known = [(float(layer.layer), pick(layer)) for layer in layers]
    points = [(x, found.value) for x, found in known if found.value is not None]
    band = [(x, *found.ci) for x, found in known if found.ci is not None]
    return Series(label, style, points, band)


def _trace_plots(trace: Trace) -> str:
    # Here, so that asking which formats there are needs no numpy.
    from spinal.analysis.localization import terminal_window

    terminal = terminal_window(trace.model.n_layers, float(str(trace.profile["terminal_fraction"])))
    figures = []
    for member, name, unit in (
        ("contraction", "Contraction alpha", "alpha"),
        ("transport", "Transport L", "radians"),
        ("entropy", "Entropy", "nats"),
    ):
        series = []
        for policy, style in (("all", "a"), ("last", "b")):
            points, band = [], []
            for layer in trace.layers:
                position = layer.positions[policy]  # type: ignore[index]  # literal policies
                value, se = getattr(position, member), getattr(position, f"{member}_se")
                if value is not None:
                    points.append((float(layer.layer), value))
                    if se is not None:
                        band.append((float(layer.layer), value - 1.96 * se, value + 1.96 * se))
            series.append(Series(policy, style, points, band))
        figures.append(plot(name, "By layer; band: 95% interval.", series, terminal=terminal, unit=unit))
    return "".join(figures)
