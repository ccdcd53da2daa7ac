"""Whatever is wrong with a caller's file: the engine measures what was meant, or raises one error of ours."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.pair import prepare_sides
from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.survey import survey
from spinal.documents.trace import Trace
from spinal.engine.api import measure
from spinal.engine.failures import callers_fault, fault_of_checkpoints
from spinal.errors import ArchitectureUnsupported, DeviceFailed, SpinalError, WeightsCorrupt
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from tests.support.malformed import CONFIG, make_sound, malform, write_whole

PROMPTS = builtin_prompts("hh-harmless-64")
QUICK = MeasurementProfile(max_tokens=8, lens_positions=1)


def trace(root: Path, name: str, into: Path, *, stream: bool = False) -> Trace:
    checkpoint = resolve_reference(f"local:{name}", roots=[root])
    return measure(checkpoint, PROMPTS, QUICK, capture_path=into / "capture.safetensors", stream=stream)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    root = tmp_path_factory.mktemp("sound")
    write_whole(root / "m")
    return trace(root, "m", root)


MEANT: list[dict[str, Any]] = [
    {"dtype": "torch.float32"}, {"dtype": "auto"}, {"dtype": "fp32"}, {"dtype": "fp8"}, {"torch_dtype": "float"},
    {"rms_norm_eps": "1e-6"}, {"max_position_embeddings": 128.0}, {"hidden_size": 16.0}, {"pad_token_id": 9999},
    {"return_dict": False}, {"_attn_implementation": "flash_attention_2"}, {"attn_implementation": "some/kernel"},
    {"output_attentions": True}, {"output_hidden_states": True}, {"torchscript": True},
    {"gradient_checkpointing": True}, {"configuration_files": ["config.9.json"]},
    {"transformers_weights": "x.safetensors"}, {"use_kernels": True},
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("members", MEANT, ids=str)
def test_what_only_says_how_to_compute_changes_no_number(
    tmp_path: Path, sound: Trace, members: dict[str, Any], stream: bool
) -> None:
    write_whole(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(CONFIG | members))
    assert trace(tmp_path, "m", tmp_path, stream=stream).layers == sound.layers


REFUSED: list[dict[str, Any]] = [
    {"num_key_value_heads": 0}, {"num_attention_heads": 3}, {"hidden_act": "no-such"}, {"hidden_act": 7},
    {"rope_parameters": {"rope_type": "no-such", "rope_theta": 1.0}}, {"rope_parameters": 7}, {"rms_norm_eps": "small"},
    {"eos_token_id": "eager"}, {"head_dim": [None]}, {"layer_types": ["no_such"] * 2}, {"attention_dropout": "x"},
    {"intermediate_size": 25}, {"head_dim": 0}, {"head_dim": 10}, {"model_type": "no-such"}, {"model_type": "t5"},
    {"rope_parameters": {"rope_type": "yarn", "factor": 0, "rope_theta": 0.0}},
    {"id2label": 7, "num_labels": "x"}, {"tie_word_embeddings": "maybe", "vocab_size": 2049},
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("members", REFUSED, ids=str)
def test_what_no_model_can_be_made_of_is_one_error_of_ours(
    tmp_path: Path, members: dict[str, Any], stream: bool
) -> None:
    write_whole(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(CONFIG | members))
    with pytest.raises(SpinalError) as caught:
        trace(tmp_path, "m", tmp_path, stream=stream)
    check(caught.value, tmp_path)


JUST_SAVED: list[tuple[str, dict[str, Any], str]] = [
    ("a quantization that is not read", {"quantization_config": "fp8"}, "config_invalid"),
    ("a tie that is no truth value", {"tie_word_embeddings": "false"}, "config_invalid"),
    ("more blocks than there are", {"num_hidden_layers": 3}, "config_invalid"),
    ("fewer blocks than there are", {"num_hidden_layers": 1}, "weights_corrupt"),
]


@pytest.mark.parametrize(("case", "members", "code"), JUST_SAVED)
def test_what_is_wrong_with_files_of_a_moment_ago_is_told_as_what_it_is(
    tmp_path: Path, case: str, members: dict[str, Any], code: str
) -> None:
    write_whole(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(CONFIG | members))
    with pytest.raises(SpinalError) as caught:
        trace(tmp_path, "m", tmp_path)
    assert caught.value.code == code, case
    assert caught.value.hint
    assert not caught.value.detail.rstrip(")'").endswith(":")


def check(error: SpinalError, root: Path) -> None:
    assert not error.retryable
    assert error.status == 422 or error.exit_code == 3, error.code
    assert error.detail.isprintable()
    assert str(root) not in error.detail
    assert len(error.detail) < 500


OTHER_CODE: list[tuple[dict[str, Any], str]] = [
    ({"architectures": ["MistralForCausalLM"]}, "'MistralForCausalLM'; .* LlamaForCausalLM"),
    ({"architectures": ["LlamaForCausalLM", "MyForCausalLM"]}, "'MyForCausalLM'; .* LlamaForCausalLM"),
    ({"auto_map": {"AutoModelForCausalLM": "modeling.MyLlama"}}, "code .* not run; LlamaForCausalLM"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("members", "remark"), OTHER_CODE, ids=str)
def test_a_class_that_the_checkpoint_does_not_name_is_remarked(
    tmp_path: Path, sound: Trace, members: dict[str, Any], remark: str, stream: bool
) -> None:
    write_whole(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(CONFIG | members))
    found = trace(tmp_path, "m", tmp_path, stream=stream)
    assert found.layers == sound.layers
    [said] = set(found.warnings) - set(sound.warnings)
    assert re.search(remark, said)


LISTED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
          "chat_template.jinja")  # fmt: skip


@pytest.mark.parametrize("name", LISTED)
def test_a_link_that_leads_nowhere_is_that_files_fault(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / "m")
    (tmp_path / "m" / name).unlink(missing_ok=True)
    (tmp_path / "m" / name).symlink_to("nowhere")
    with pytest.raises(SpinalError, match="leads nowhere") as caught:
        survey({"candidate": "local:m"}, [tmp_path])
    check(caught.value, tmp_path)


@pytest.mark.parametrize("name", LISTED)
def test_a_file_that_goes_away_while_it_is_looked_at_is_that_files_fault(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "m")
    (tmp_path / "m" / name).touch()
    if name.endswith("map.json"):
        (tmp_path / "m" / name).write_text("{}")

    def prepared(sides: list[Checkpoint]) -> list[Checkpoint]:
        (tmp_path / "m" / name).unlink()
        return prepare_sides(sides)

    monkeypatch.setattr("spinal.checkpoints.survey.prepare_sides", prepared)
    try:
        survey({"candidate": "local:m"}, [tmp_path])
    except SpinalError as error:
        check(error, tmp_path)
    else:
        # It was read when it was resolved; who measures it holds it open, and finds it gone.
        assert name == "config.json"


def test_names_of_files_that_are_not_read_are_shown_in_print(tmp_path: Path) -> None:
    write_whole(tmp_path / "m")
    for raw in (b"\x1b[2Jx", b"a\nb", b"\xff\xfe", "\u202e".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path / "m") + b"/" + raw)).touch()
    [remark] = survey({"candidate": "local:m"}, [tmp_path])["candidate"].remarks
    assert remark.isprintable()
    assert "not read" in remark


@pytest.mark.parametrize("seed", range(2000, 2040))
def test_what_passes_the_survey_is_measured_or_refused_once(tmp_path: Path, seed: int) -> None:
    make_sound(tmp_path)
    malform(tmp_path, "m", seed)
    try:
        survey({"candidate": "local:m"}, [tmp_path])
        trace(tmp_path, "m", tmp_path)
    except SpinalError as error:
        found = error
    else:
        return
    check(found, tmp_path)


# the guard


def test_a_first_run_that_fails_is_the_checkpoints_fault_by_name(tmp_path: Path) -> None:
    write_whole(tmp_path / "m")
    checkpoint = resolve_reference(str(tmp_path / "m"), roots=None)

    @fault_of_checkpoints
    def run(*_: object) -> None:
        raise ZeroDivisionError("of heads")

    with pytest.raises(
        ArchitectureUnsupported, match=r"local:m cannot be loaded and run \(ZeroDivisionError: of heads"
    ):
        run(checkpoint, 7)


@pytest.mark.parametrize(
    ("raised", "passes"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), torch.OutOfMemoryError),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceFailed),
        (RuntimeError("size mismatch"), WeightsCorrupt),
    ],
)
def test_devices_that_fail_are_not_the_files_fault(raised: Exception, passes: type[Exception]) -> None:
    with pytest.raises(passes), callers_fault(WeightsCorrupt):
        raise raised
