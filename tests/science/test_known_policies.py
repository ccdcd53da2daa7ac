"""The default policy says of checkpoints with a known history what ``docs/policies.md`` says that it does."""

import re
from collections.abc import Callable

import pytest

from spinal.documents.comparison import Comparison
from spinal.policy.decide import judged
from tests.conftest import ROOT
from tests.unit.policy.test_page import PAGE

ROWS = re.findall(r"^\| `([^`]+)` \| [^|]+ \| (pass|warn|fail|inconclusive) \| `?([^`|]*?)`? ?\|$", PAGE, re.MULTILINE)


def test_every_known_checkpoint_is_in_the_table() -> None:
    stored = {path.name.removesuffix(".safetensors") for path in (ROOT / "examples" / "history").iterdir()}
    bundled = {path.name for path in (ROOT / "examples" / "checkpoints").iterdir()}
    assert {name for name, *_ in ROWS} == {name for name in stored | bundled if name != "README.md"}


@pytest.mark.parametrize(("name", "outcome", "decided_by"), ROWS, ids=[name for name, *_ in ROWS])
def test_the_table_of_known_checkpoints_is_what_the_default_policy_says(
    compared: Callable[..., Comparison], name: str, outcome: str, decided_by: str
) -> None:
    verdict = compared(name).verdict
    assert (verdict.outcome, verdict.decided_by or "") == (outcome, decided_by)
    if decided_by:
        (rule,) = [rule for rule in verdict.rules if rule.rule == decided_by]
        assert rule.ci is not None
        assert rule.limit is not None
        assert rule.ci[0] > rule.limit
        assert f"limit {rule.limit}" in verdict.reasons[0]


def test_a_stronger_signature_never_decides(compared: Callable[..., Comparison]) -> None:
    """The strongest of them belongs to a wrecked model, and stronger than a healthy one's does not fail it."""
    healthy = compared("dpo-short")
    for name in ("dpo-overoptimised", "dpo-broken"):
        wrecked = compared(name)
        swapped = healthy.model_copy(update={"scores": wrecked.scores, "localization": wrecked.localization})
        assert judged(swapped).verdict.outcome == healthy.verdict.outcome == "pass"
