"""Numbers as they are shown: plain notation, ends that differ look different, one sign."""

import re

import numpy as np
import pytest

from spinal.analysis.statements.words import nats, share_of
from spinal.documents.base import Estimate
from spinal.documents.comparison import DamageSignal
from spinal.numbers import (
    DASH,
    MINUS,
    count,
    interval,
    number,
    percentile,
    share,
    signed,
)
from spinal.policy.words import sentence


def read(text: str) -> float:
    """The value that a shown number stands for."""
    plain = text.replace(",", "").replace(MINUS, "-")
    mantissa, times, power = plain.partition(" × 10")
    if not times:
        return float(plain)
    return float(mantissa) * 10.0 ** int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_every_size_is_read_back_and_none_as_a_power_of_e(sign: float) -> None:
    for value in sign * np.geomspace(1e-9, 1e9, 400):
        shown = number(float(value))
        assert "e" not in shown
        # Three digits; two where a power of ten is written.
        assert read(shown) == pytest.approx(value, rel=0.06)
        assert abs(value) < 1e-4 or abs(value) >= 1e6 or read(shown) == pytest.approx(value, rel=0.0051)


def test_intervals_that_are_no_points_never_look_like_points() -> None:
    generator = np.random.default_rng(0)
    for middle in generator.uniform(-5, 5, 200):
        for width in (1e-6, 1e-3, 0.1, 3.0):
            low, high = re.findall(r"[^\[\], ][^\[\],]*", interval(middle - width / 2, middle + width / 2))
            assert read(low) < read(high)


def test_signs_and_nulls() -> None:
    assert signed(0.1) == "+0.1"
    assert signed(-0.1) == f"{MINUS}0.1"
    assert signed(-0.0) == number(-0.0) == "0"
    assert share(-0.00001) == "0%"
    for shown in (number(None), signed(None), share(None), percentile(None), count(None)):
        assert shown == DASH
    assert number(float("nan")) == number(float("inf")) == DASH
    assert interval(None, 1.0) == interval(0.0, float("nan")) == ""


def test_a_percentile_of_a_hundred_is_written_out() -> None:
    assert percentile(100.0) == "100"
    assert percentile(97.25) == "97.2"


def test_shares_are_per_cent_everywhere() -> None:
    assert share(0.333, (0.3, 0.366)) == "33% [30%, 37%]"
    assert share(0.006) == "0.6%"


def test_sentences_write_numbers_as_tables_do() -> None:
    """A share that a sentence and a table on one page both name is the same text, and no sentence has a power of e."""
    found = Estimate(value=-0.0213, ci=(-0.0412, 0.0089))
    assert share_of(found) == share(found.value, found.ci) == "−2.1% [−4.1%, 0.9%]"
    for value in (1.5e-7, 3.25, 12345.6, 3.2e7):
        given = Estimate(value=value, ci=(0.9 * value, 1.1 * value))
        assert nats(given) == f"{signed(value)} nats {interval(*given.ci or (None, None))}"
        told = sentence(
            "nll_change",
            DamageSignal(value=value, ci=given.ci, unit="nats/token", watch=0.3, damaged=1.0, level="damaged"),
        )
        assert f"{signed(value)} nats a token {interval(*given.ci or (None, None))}" in told
        assert not re.search(r"\de[+-]?\d", told)
