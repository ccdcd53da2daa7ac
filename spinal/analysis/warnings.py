"""What a reader must know before quoting a number, in words."""

from typing import TYPE_CHECKING

from spinal.comparison import LayerComparison, Localization, Null

if TYPE_CHECKING:
    from spinal.analysis.compare import Pair

NO_CONTROL = (
    "no control checkpoint was given: this result cannot tell preference optimisation from ordinary fine-tuning"
)
SMALL_SAMPLE = 64
PLACES_APART = 0.25
"""Centres of two profiles further apart than this share of the depth are reported as disagreeing."""


def collect_warnings(
    pair: "Pair",
    layers: tuple[LayerComparison, ...],
    places: dict[str, Localization],
    nulls: dict[str, Null],
) -> tuple[str, ...]:
    """All warnings of a comparison, most important first."""
    found = []
    if "control" not in nulls and not pair.identical:
        found.append(NO_CONTROL)
    swap = places["block_swap"]
    if swap.terminal_share is not None and swap.terminal_share > 0.98:
        found.append(
            "nearly all change sits in the terminal window: nothing earlier moved, as with frozen blocks or a late adapter"
        )
    if pair.evidence.readout_moved:
        found.append(
            "the read-out (final norm or unembedding) changed: it alone can fake a late change; read "
            "d_transport_fixed_lens beside d_transport"
        )
    apart = _disagreeing(places)
    if apart:
        found.append(f"profiles place the change differently from block swap: {', '.join(apart)}")
    found.extend(_sampling(pair))
    mixed = sum(bool(layer.sign_disagreement) for layer in layers)
    if mixed:
        found.append(f"the two position policies disagree in sign at {mixed} of {len(layers)} nodes")
    windows = sum(layer.d_contraction.window_agreement["all"] is False for layer in layers)
    if windows:
        found.append(f"the sign of d alpha depends on the fit window at {windows} of {len(layers)} nodes (policy all)")
    return tuple(found)


def _disagreeing(places: dict[str, Localization]) -> list[str]:
    anchor = places["block_swap"].center
    if anchor is None:
        return []
    return [
        f"{name} (centre {place.center:.2f}, block swap {anchor:.2f})"
        for name, place in places.items()
        if place.center is not None and abs(place.center - anchor) > PLACES_APART
    ]


def _sampling(pair: "Pair") -> list[str]:
    found = []
    prompts = pair.reference.prompt_set.count
    if prompts < SMALL_SAMPLE:
        found.append(f"{prompts} prompts: intervals are wide and rough; 128 or more are advised")
    for policy in ("last", "all"):
        position = pair.reference.layers[-1].positions[policy]  # type: ignore[index]  # literal policies
        if position.underdetermined:
            found.append(
                f"policy {policy}: {position.rows} rows for {pair.reference.model.hidden_size} dimensions (n < 2d): "
                "differences of alpha are attenuated or inflated by x1.03-1.26"
            )
    return found
