"""What is said of an adapter when it is submitted, from its settings and the header of its file alone."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from spinal.checkpoints.adapter import MEASURED, OFF, REFUSED, STARTS, check_adapter, trained_tokens
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import FileList
from spinal.errors import AdapterInvalid, SpinalError

LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
MODULES = [f"model.layers.{index}.self_attn.q_proj" for index in range(40)]


def entry(*shape: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 0]}


def header(rank: int = 8) -> dict[str, dict[str, Any]]:
    name = f"base_model.model.{MODULES[0]}.lora_"
    return {f"{name}A.weight": entry(rank, 512), f"{name}B.weight": entry(512, rank)}


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    """A checkpoint whose file holds nothing but names."""
    names = json.dumps({f"{name}.weight": entry(0) for name in MODULES}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(names).to_bytes(8, "little") + names)
    return Checkpoint(tmp_path, "local:base", {}, files=FileList((), ("model.safetensors",)))


def check(base: Checkpoint, tensors: Any = None, **settings: Any) -> None:
    folder = base.path / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(LORA | settings))
    check_adapter(Checkpoint(folder, "local:mine", {}, base=base), header() if tensors is None else tensors)


def test_a_plain_lora_passes(base: Checkpoint) -> None:
    check(base)
    check(base, task_type=None)
    check(base, rank_pattern={"q_proj": 4}, alpha_pattern={r".*\.1\..*": 3})


def test_no_type_is_both_measured_and_refused() -> None:
    assert not MEASURED & REFUSED.keys()


@pytest.mark.model
def test_every_type_of_peft_is_measured_or_refused() -> None:
    import peft

    assert {kind.value for kind in peft.PeftType} == MEASURED | REFUSED.keys()


@pytest.mark.parametrize("kind", [*REFUSED, "NEWEST", "lora", "", None, 3, ["LORA"]])
def test_other_types_are_refused_with_what_to_do(kind: object, base: Checkpoint) -> None:
    with pytest.raises(AdapterInvalid, match="local:mine: adapter type") as refused:
        check(base, peft_type=kind)
    assert refused.value.hint


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", "", 1, ["CAUSAL_LM"]])
def test_other_tasks_are_refused(task: object, base: Checkpoint) -> None:
    with pytest.raises(AdapterInvalid, match="was trained for task"):
        check(base, task_type=task)


@pytest.mark.parametrize("name", OFF)
def test_settings_that_run_code_or_cannot_be_merged_are_refused(name: str, base: Checkpoint) -> None:
    check(base, **{name: None})
    with pytest.raises(AdapterInvalid, match=name):
        check(base, **{name: {"any": 1}})


@pytest.mark.parametrize("start", STARTS)
def test_a_start_that_the_adapter_does_not_hold_is_refused(start: str, base: Checkpoint) -> None:
    with pytest.raises(AdapterInvalid, match="init_lora_weights"):
        check(base, init_lora_weights=start)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 10**9},
        {"r": -1},
        {"r": True},
        {"r": "8"},
        {"r": 1.5},
        {"rank_pattern": {"q": 10**6}},
        {"rank_pattern": [1]},
    ],
    ids=str,
)
def test_sizes_that_no_tensor_bears_out_are_refused(settings: dict[str, Any], base: Checkpoint) -> None:
    with pytest.raises(AdapterInvalid, match=r"r is|rank_pattern"):
        check(base, **settings)


def test_the_largest_rank_is_that_of_the_tensors(base: Checkpoint) -> None:
    check(base, header(300), r=300)
    with pytest.raises(AdapterInvalid, match=r"\br is 400"):
        check(base, header(300), r=400)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no tensor"),
        ({"model.layers.0.lora_A.weight": entry(8, 512)}, "begin with base_model"),
        ({"base_model.model.x.lora_A.weight": entry(8, 512, dtype="F8_E4M3")}, "stored as F8_E4M3"),
        ({"base_model.model.x.lora_A.weight": entry(8, 512, dtype="I8")}, "stored as I8"),
        ({"base_model.model.x.lora_A.weight": entry(8, 512, dtype="I64")}, "stored as I64"),
    ],
)
def test_tensors_that_cannot_be_an_adapters_are_refused(tensors: Any, message: str, base: Checkpoint) -> None:
    with pytest.raises(AdapterInvalid, match=message):
        check(base, tensors)


@pytest.mark.parametrize("setting", ["target_modules", "exclude_modules", "layers_pattern"])
def test_expressions_are_read_as_such(setting: str, base: Checkpoint) -> None:
    check(base, **{setting: r"model\.layers\.\d+\..*(q|k)_proj"})
    for wrong in ("(", "a" * 5000):
        with pytest.raises(AdapterInvalid, match=setting):
            check(base, **{setting: wrong})


def test_trained_tokens_are_read_from_each_form() -> None:
    assert trained_tokens({"trainable_token_indices": [3, 1]}) == [1, 3]
    assert trained_tokens({"trainable_token_indices": {"wte": [3], "lm_head": [3, 4]}}) == [3, 4]
    assert trained_tokens({"token_indices": [2]}) == [2]
    assert trained_tokens({}) == []


VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    10**12,
    1.5,
    "",
    "x",
    "(a|",
    [],
    [None],
    [[1]],
    {},
    {"a": None},
    {"(": 1},
    "é" * 99,
]


@pytest.mark.parametrize("seed", range(300))
def test_whatever_the_settings_hold_the_answer_is_ours_and_soon(seed: int, base: Checkpoint) -> None:
    draw = random.Random(seed)
    names = [*LORA, *OFF, "rank_pattern", "alpha_pattern", "exclude_modules", "layers_pattern", "init_lora_weights"]
    changes: dict[str, Any] = {draw.choice(names): draw.choice(VALUES) for _ in range(draw.randint(1, 4))}
    started, code = time.monotonic(), "adapter_invalid"
    try:
        check(base, **changes)
    except SpinalError as error:
        code = error.code
    assert code == "adapter_invalid", changes
    assert time.monotonic() - started < 5.0, changes
