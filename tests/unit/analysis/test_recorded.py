"""Numbers on record: under one version of the scorer the same arrays give the same comparison.

A record proves no formula; the other tests do. It notices when any number, reason or sentence becomes another one.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from spinal.documents.editions import PRESENT
from tests.unit.analysis.recorded_pairs import PAIRS, comparison_of, record, rounded, spectra

RELATIVE, ABSOLUTE = 1e-7, 1e-11
"""Sums of other lengths and other builds of numpy differ by 1e-13; what is rounded away is no change."""


def changes(was: Any, now: Any, at: str = "") -> Iterator[str]:
    """Where two documents differ by more than rounding."""
    if isinstance(was, dict) and isinstance(now, dict) and was.keys() == now.keys():
        for key in was:
            yield from changes(was[key], now[key], f"{at}/{key}")
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for i, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from changes(one, other, f"{at}/{i}")
    elif type(was) is float and type(now) is float:
        if not math.isclose(was, now, rel_tol=RELATIVE, abs_tol=ABSOLUTE):
            yield f"{at}: {was} is now {now}"
    elif was != now or type(was) is not type(now):
        yield f"{at}: {was!r} is now {now!r}"


@pytest.mark.parametrize("name", PAIRS)
def test_a_comparison_is_what_its_version_says(name: str) -> None:
    was = json.loads(record(name).read_text())
    assert was["comparison"]["scorer_version"] == PRESENT.scorer, "another version: record its numbers"
    now = json.loads(json.dumps(rounded(comparison_of(name))))
    assert list(changes(was, now))[:5] == []


def test_spectra_give_the_fits_on_record() -> None:
    now = json.loads(json.dumps(rounded(spectra())))
    assert list(changes(json.loads(record("spectra").read_text()), now))[:5] == []
