"""Whatever happens to files under a measurement, no number is attributed to a content that does not have it."""

import pytest

from tests.support.swaps import Truth, attempt, learn

SEEDS = range(48)
"""``python3 dev.py bench swaps`` tries 200."""


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return learn(tmp_path_factory.mktemp("swaps"))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_changed_file_is_a_changed_model_or_is_not_what_was_read(truth: Truth, seed: int) -> None:
    made = attempt(truth, seed)
    assert made.acted
    assert not made.wrong, made
    if made.moment > 0:
        # Ahead of the first look a file is judged as it is then.
        assert made.code in (None, "model_changed"), made
