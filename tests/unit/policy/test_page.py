"""``docs/policies.md`` shows a policy that works, and lists the values that there are."""

import re
from datetime import date

from spinal.documents.policy import LimitRule
from spinal.policy.decide import decide
from spinal.policy.kinds import KINDS
from spinal.policy.reading import parse_policy
from spinal.policy.values import known_values
from tests.conftest import ROOT
from tests.support.fabricated import changed_pair

PAGE = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")


def example() -> str:
    """The policy that the page shows."""
    (found,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    return found


def test_the_policy_of_the_page_judges_a_comparison_with_every_kind_of_rule() -> None:
    policy = parse_policy(example(), "docs/policies.md")
    assert {rule.kind for rule in policy.rules} == set(KINDS)
    verdict = decide(changed_pair().compare(), policy, today=date(2026, 11, 28))
    assert [rule.rule for rule in verdict.rules] == [rule.name for rule in policy.rules]
    assert verdict.policy == "acme-release/1"
    # No account was drawn up.
    assert (verdict.outcome, verdict.decided_by) == ("inconclusive", "stays-near")


def test_the_page_lists_every_value_with_its_meaning_and_unit() -> None:
    listed = re.findall(
        r"^\| `([^`]+)` \| (.+) \| (.*) \|$", PAGE.partition("## Values")[2].partition("\n## ")[0], re.MULTILINE
    )
    known = [(each.path, each.means, each.unit) for each in known_values()]
    assert [tuple(cell.replace("\\|", "|") for cell in row) for row in listed] == known


def test_the_page_names_every_kind_and_every_member_of_a_limit() -> None:
    for name in (*KINDS, *LimitRule.model_fields):
        assert f"`{name}`" in PAGE or f"{name}:" in PAGE, name
