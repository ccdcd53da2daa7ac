"""Every path that is listed can be asked for, and gives a value or says why there is none."""

import json
import math
from functools import cache

import pytest

from spinal.analysis.damage.limits import LIMITS
from spinal.analysis.locators import LOCATORS
from spinal.documents.account import READ_OUTS, Account, PlacePart
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, DamageSignal, Looked
from spinal.documents.policy import Policy
from spinal.policy.kinds import KINDS
from spinal.policy.values import NAMESPACES, Sources, known_values, named, read
from tests.support.fabricated import changed_pair, identical_pair

NUMBER = Estimate(value=0.5, ci=(0.4, 0.6), se=0.05)
EXAMPLES = {
    "<category>": ["code", "with.dots", "naïve prompts"],
    "<read-out>": list(READ_OUTS),
    "<place>": ["embeddings", "read-out", "configuration", "block 3"],
    "<locator>": list(LOCATORS),
    "<score>": ["delta_align", "spinal_score"],
    "<path>": ["damage.nll_change", "accounts.kl.total", "scores.delta_align"],
}
"""What stands for each part that differs."""


def spelled_out(path: str) -> list[str]:
    for part, examples in EXAMPLES.items():
        if part in path:
            return [each for one in examples for each in spelled_out(path.replace(part, one))]
    assert "<" not in path, path
    return [path]


@cache
def full() -> Comparison:
    """A comparison that holds a value at every path."""
    made = changed_pair().compare()
    part = PlacePart(place="embeddings", block=None, identical=False, phi=NUMBER, interaction=0.0, share=NUMBER)
    parts = tuple(part.model_copy(update={"place": place}) for place in EXAMPLES["<place>"])
    accounts = {
        name: Account(
            read_out=name, prompts=8, total=NUMBER, floor=None, places=parts, localization=None,
            blocks_terminal_share=NUMBER,
        )
        for name in READ_OUTS
    }  # fmt: skip
    counts = {"prompts": 9, "scored": 8, "swapped": 0, "accounted": 0, "continued": 0}
    looked = [Looked(category=category, nll_change=NUMBER, **counts) for category in EXAMPLES["<category>"]]
    return made.model_copy(update={"accounts": accounts, "looked_at": tuple(looked)})


PATHS = [path for each in known_values() for path in spelled_out(each.path)]


@pytest.mark.parametrize("path", PATHS)
def test_every_listed_path_is_found_and_read_or_says_why_not(path: str) -> None:
    listed = named(path)
    assert listed is not None
    assert listed.means
    assert listed.low < listed.high
    for content in (full(), identical_pair().compare()):
        found = read(path, Sources(content, former=content))
        if found.value is None:
            assert found.reason, path
            continue
        assert math.isfinite(found.value)
        assert listed.low <= found.value <= listed.high
        if found.ci is not None:
            assert found.ci[0] <= found.value <= found.ci[1]


def test_what_a_comparison_holds_is_what_is_read() -> None:
    content = full()
    for path in ("accounts.margin.total", "accounts.kl.last_third", "accounts.kl.phi.block 3",
                 "accounts.refusal.share.read-out", "categories.with.dots.nll_change"):  # fmt: skip
        found = read(path, Sources(content))
        assert (found.value, found.ci, found.se) == (0.5, (0.4, 0.6), 0.05), path
    assert read("categories.code.scored", Sources(content)).value == 8.0
    assert read("blocks.changed", Sources(content)).value == 10.0
    place = content.localization["block_swap"]
    found = read("localization.block_swap.terminal_share", Sources(content))
    assert (found.value, found.ci) == (place.terminal_share, place.ci.get("terminal_share"))
    assert place.terminal_share
    assert read("scores.delta_align", Sources(content)).value == content.scores.delta_align is not None
    for name, signal in content.damage.signals.items():
        assert read(f"damage.{name}", Sources(content)).value == signal.value


def test_every_signal_and_every_score_is_listed() -> None:
    listed = {each.path for each in known_values()}
    made = changed_pair().compare()
    assert {f"damage.{name}" for name in made.damage.signals} == {p for p in listed if p.startswith("damage.")}
    assert set(LIMITS) <= set(made.damage.signals)
    scores = {"delta_align", "contraction_rise", "transport_fall", "coherence", "footprint", "spinal_score"}
    assert {f"scores.{name}" for name in scores} == {path for path in listed if path.startswith("scores.")}
    assert {f"weights.{name}" for name in made.weight_change_other} == {p for p in listed if p.startswith("weights.")}


def test_a_signal_that_has_no_vote_is_no_value() -> None:
    """It was measured in coordinates that the two sides do not share."""
    content = full()
    signal = DamageSignal(value=0.9, watch=None, damaged=None, level=None, unit="u", reason="frame_changed")
    signals = content.damage.signals | {"hidden_change": signal}
    damage = content.damage.model_copy(update={"signals": signals})
    found = read("damage.hidden_change", Sources(content.model_copy(update={"damage": damage})))
    assert (found.value, found.reason, found.asked) == (None, "frame_changed", False)


def test_the_worst_category_of_an_earlier_release_is_known_by_its_signal() -> None:
    content = full()
    worst = DamageSignal(value=0.7, ci=(0.6, 0.8), watch=0.5, damaged=1.0, level="watch", unit="u", of="code")
    signals = content.damage.signals | {"nll_change_worst_category": worst}
    looked = tuple(one.model_copy(update={"nll_change": None}) for one in content.looked_at)
    damage = content.damage.model_copy(update={"signals": signals})
    former = Sources(content.model_copy(update={"damage": damage, "looked_at": looked}))
    assert read("categories.code.nll_change", former).value == 0.7
    assert read("categories.with.dots.nll_change", former).value is None


@pytest.mark.parametrize(
    "path",
    ["", ".", "damage", "damage.", "accounts.kl", "accounts.kl.phi", "accounts.kl.phi.block x", "accounts.kl.total.x",
     "categories.nll_change", "categories.code.gap", "contrasts.scores.luck", "former.", "former.damage",
     "localization.luck.center", "localization.block_swap.peak", "scores.weights", "__class__.x"],
)  # fmt: skip
def test_what_is_no_path_is_none(path: str) -> None:
    assert named(path) is None


def test_kinds_of_the_document_and_kinds_that_are_judged_are_the_same() -> None:
    schema = json.dumps(Policy.model_json_schema(by_alias=True))
    for kind in KINDS:
        assert f'"const": "{kind}"' in schema
    assert schema.count('"const": ') == len(KINDS) + 1, "and the document's own name"


def test_namespaces_go_by_their_name() -> None:
    for name, namespace in NAMESPACES.items():
        assert namespace.name == name
        assert all(each.path.startswith(f"{name}.") for each in namespace.listed())
