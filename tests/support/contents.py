"""Contents of comparisons made from what the test says is true of the pair: profiles, accounts, settings."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from spinal.analysis.localization import localize, terminal_window
from spinal.documents.account import Account, PlacePart, ReadOut
from spinal.documents.base import Estimate, missing
from spinal.documents.comparison import Comparison, Frame, SettingDifference
from spinal.documents.localization import NO_CHANGE
from tests.support.fabricated import changed_pair, identical_pair

DEPTH = 24


@cache
def base(depth: int = DEPTH, *, identical: bool = False) -> Comparison:
    """A whole comparison to change members of."""
    return identical_pair(depth).compare() if identical else changed_pair(depth, first=1).compare()


def content(
    swap: Sequence[float] | np.ndarray = (),
    *,
    unchanged: Sequence[int] = (),
    outside: Mapping[str, float] | None = None,
    settings: Sequence[SettingDifference] = (),
    accounts: Mapping[str, Account] | None = None,
    reason: str | None = None,
    frame: Frame | None = None,
    identical: bool = False,
    **members: Any,
) -> Comparison:
    """A comparison whose block swap is ``swap`` (D,), or has no place for ``reason``; ``unchanged`` blocks are the same
    in tensors, configuration and arguments."""
    values = np.zeros(DEPTH) if len(swap) == 0 else np.asarray(swap, dtype=np.float64)
    depth = values.size
    made = base(depth, identical=identical)
    same = set(unchanged) | (set(range(1, depth + 1)) if identical else set())
    layers = tuple(
        layer
        if layer.layer == 0
        else layer.model_copy(
            update={
                "block_swap": Estimate(value=float(values[layer.layer - 1])),
                "weight_change": 0.0 if layer.layer in same else 0.01,
            }
        )
        for layer in made.layers
    )
    place = localize(values, None, terminal_window(depth, 0.7), absent=reason)
    return made.model_copy(
        update={
            "layers": layers,
            "localization": made.localization | {"block_swap": place},
            "weight_change_other": dict(outside or {}),
            "settings": tuple(settings),
            "unchanged_blocks": tuple(unchanged),
            "accounts": dict(accounts or {}),
            "frame": frame,
            "statements": (),
            **members,
        }
    )


def account(
    parts: Mapping[str, float],
    *,
    read_out: ReadOut = "margin",
    identical: Sequence[str] = (),
    reason: str | None = None,
    error: float = 0.02,
    prompts: int = 64,
    **members: Any,
) -> Account:
    """An account of ``parts`` (nats) by place, each with a standard error of ``error`` of the total."""
    total = sum(parts.values())
    blocks = {place: value for place, value in parts.items() if place.startswith("block ")}
    profile = np.maximum(np.sign(total) * np.array(list(blocks.values())), 0.0)
    terminal = terminal_window(len(blocks), 0.7)
    own = sum(blocks.values())
    late = sum(list(blocks.values())[terminal[0] - 1 :])

    def estimate(value: float, scale: float) -> Estimate:
        se = abs(error * scale)
        ends = (value - 1.96 * se, value + 1.96 * se)
        return Estimate(value=value, ci=ends, se=se, mde=2.8 * se, significant=not ends[0] <= 0.0 <= ends[1])

    return Account(
        **{
            "read_out": read_out,
            "prompts": prompts,
            "total": estimate(total, 3 * total),
            "floor": 1e-6,
            "places": tuple(
                PlacePart(
                    place=place,
                    block=int(place.removeprefix("block ")) if place in blocks else None,
                    identical=place in identical,
                    phi=estimate(value, 0.0 if place in identical else total),
                    interaction=0.0 if place in identical else abs(0.1 * value),
                    share=missing(reason) if reason else estimate(value / total if total else 0.0, 1.0),
                )
                for place, value in parts.items()
            ),
            "localization": localize(profile, None, terminal, absent=reason or (None if profile.any() else NO_CHANGE)),
            "blocks_terminal_share": missing(reason or NO_CHANGE) if reason or not own else estimate(late / own, 1.0),
            "reason": reason,
            **members,
        }
    )


def parts(
    blocks: Sequence[float] | np.ndarray, embeddings: float = 0.0, read_out: float = 0.0, **more: float
) -> dict[str, float]:
    """Parts by place, in the order of places."""
    return {
        "embeddings": embeddings,
        **{f"block {number}": float(value) for number, value in enumerate(blocks, 1)},
        "read-out": read_out,
        **more,
    }


def setting(
    key: str, reference: str | None, candidate: str | None, part: str = "configuration", *, computes: bool = True
) -> SettingDifference:
    return SettingDifference(part=part, key=key, reference=reference, candidate=candidate, computes=computes)
