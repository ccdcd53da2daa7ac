"""On what configuration, generation configuration and chat template of two checkpoints differ."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spinal.checkpoints.held import hold
from spinal.checkpoints.identity import content_snapshot, weights_digest
from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.settings import MOST_SHOWN, differing_keys, setting_differences
from spinal.documents.evidence import SettingDifference
from spinal.errors import ModelChanged
from tests.conftest import EXAMPLES

SFT = EXAMPLES / "checkpoints" / "sft"


@pytest.fixture
def copied(tmp_path: Path) -> Callable[..., Path]:
    """``copied("other", generation_config={...})`` -> folder of a copy of ``sft`` with members of those files set."""

    def copy(name: str, **files: dict[str, Any]) -> Path:
        folder = Path(shutil.copytree(SFT, tmp_path / name))
        for stem, members in files.items():
            path = folder / f"{stem}.json"
            found = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps(found | members))
        return folder

    return copy


def between(reference: Path, candidate: Path) -> list[SettingDifference]:
    sides = [resolve_reference(str(folder), roots=None) for folder in (reference, candidate)]
    with hold(sides[0]) as ours, hold(sides[1]) as theirs:
        return list(setting_differences(ours.checkpoint, theirs.checkpoint))


def test_equal_checkpoints_differ_on_nothing(copied: Callable[..., Path]) -> None:
    assert between(SFT, copied("other")) == []


def test_each_part_is_named_with_both_values(copied: Callable[..., Path]) -> None:
    other = copied(
        "other",
        config={
            "rms_norm_eps": 1e-3,
            "use_cache": False,
            "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
        },
        generation_config={"temperature": 0.7, "eos_token_id": [0, 5]},
        tokenizer_config={"chat_template": "{{ messages }}"},
    )
    found = {(each.part, each.key): (each.reference, each.candidate, each.computes) for each in between(SFT, other)}
    assert found == {
        ("chat template", "default"): (None, "14 characters, sha256 f24189f08c85", False),
        ("configuration", "rms_norm_eps"): ("1e-05", "0.001", True),
        ("configuration", "rope_parameters.rope_theta"): ("10000.0", "500.0", True),
        ("configuration", "use_cache"): ("true", "false", False),
        ("generation", "eos_token_id"): ("0", "[0, 5]", False),
        ("generation", "temperature"): (None, "0.7", False),
    }


def test_a_template_in_a_file_of_its_own_is_the_same_template(copied: Callable[..., Path]) -> None:
    inside = copied("inside", tokenizer_config={"chat_template": "{{ messages }}"})
    beside, processor = copied("beside", tokenizer_config={"chat_template": "{{ older }}"}), copied("processor")
    (beside / "chat_template.jinja").write_text("{{ messages }}")
    (processor / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert between(inside, beside) == []
    assert between(inside, processor) == []


def test_several_templates_are_compared_by_name(copied: Callable[..., Path]) -> None:
    def templates(tool: str) -> dict[str, Any]:
        both = [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": tool}]
        return {"chat_template": both}

    one = copied("one", tokenizer_config=templates("{{ tools }}"))
    other = copied("other", tokenizer_config=templates("{{ no_tools }}"))
    assert [each.key for each in between(one, other)] == ["tool_use"]


def test_values_are_short_and_clean(copied: Callable[..., Path]) -> None:
    other = copied("other", generation_config={"stop": "\x1b[2K" + "x" * 500, "cache_dir": "/home/somebody/cache"})
    found = {each.key: each.candidate for each in between(SFT, other)}
    assert found["cache_dir"] == "cache"
    assert found["stop"] is not None
    assert len(found["stop"]) == MOST_SHOWN
    assert found["stop"].isprintable()


def test_a_generation_configuration_that_cannot_be_read_is_a_difference_and_no_error(
    copied: Callable[..., Path],
) -> None:
    other = copied("other")
    (other / "generation_config.json").write_text("{")
    found = {each.key: each.candidate for each in between(SFT, other)}
    assert found["generation_config.json"] == "not readable"


def test_what_is_compared_is_held_and_is_part_of_what_was_submitted_and_not_of_the_weights(
    copied: Callable[..., Path],
) -> None:
    other = copied("other", generation_config={"temperature": 0.7})
    sides = [resolve_reference(str(folder), roots=None) for folder in (SFT, other)]
    assert weights_digest(sides[0]) == weights_digest(sides[1])
    assert content_snapshot(sides[0]) != content_snapshot(sides[1])
    with hold(sides[1]) as held:
        new = other / "new"
        new.write_text("{}")
        new.replace(other / "generation_config.json")
        with pytest.raises(ModelChanged, match="generation_config"):
            held.require_unchanged()


def test_a_file_that_comes_later_is_not_read(copied: Callable[..., Path]) -> None:
    other = copied("other")
    found = resolve_reference(str(other), roots=None)
    (other / "chat_template.json").write_text(json.dumps({"chat_template": "{{ later }}"}))
    with hold(found) as held:
        assert setting_differences(held.checkpoint, held.checkpoint) == ()
        assert setting_differences(resolve_reference(str(SFT), roots=None), held.checkpoint) == ()


@pytest.mark.parametrize(
    ("key", "computes"),
    [
        ("hidden_act", True), ("rope_parameters.rope_theta", True), ("some_multiplier_of_next_year", True),
        ("rope_scaling.factor", True), ("layer_types", True), ("eos_token_id", False), ("torch_dtype", False),
        ("quantization_config.bits", False), ("attention_dropout", False), ("_name_or_path", False),
        ("attn_implementation", False), ("initializer_range", False),
    ],
)  # fmt: skip
def test_a_member_computes_unless_it_is_known_not_to(key: str, computes: bool) -> None:
    def nested(value: int) -> dict[str, Any]:
        *inside, name = key.split(".")
        return {inside[0]: {name: value}} if inside else {name: value}

    assert differing_keys(nested(1), nested(2)) == ((key,) if computes else ())
