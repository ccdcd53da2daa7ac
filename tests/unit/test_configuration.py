"""A config.json is read as it is meant, or refused for the member that cannot be true; and it must fit the weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.configuration import as_meant, check_against_headers
from spinal.errors import ConfigInvalid, SpinalError

CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 320, "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "pad_token_id": 3, "dtype": "float32",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "transformers_version": "5.23.0",
}  # fmt: skip


def meant(**members: Any) -> dict[str, Any]:
    return as_meant(CONFIG | members, "local:m").config


def test_what_save_pretrained_writes_is_read_unchanged_and_without_remark() -> None:
    stock = CONFIG | {"return_dict": True, "output_attentions": False, "use_cache": True, "quantization_config": None}
    found = as_meant(stock | {"_attn_implementation": "sdpa", "experts_implementation": "eager"}, "local:m")
    assert found.remarks == ()
    assert found.config.items() >= CONFIG.items()
    assert found.config["_attn_implementation"] == "sdpa"


READ_AS_MEANT: list[tuple[str, Any, Any]] = [
    ("dtype", "torch.bfloat16", "bfloat16"),
    ("dtype", "bf16", "bfloat16"),
    ("dtype", "half", "float16"),
    ("torch_dtype", "torch.float16", "float16"),
    ("max_position_embeddings", 256.0, 256),
    ("max_position_embeddings", "256", 256),
    ("num_hidden_layers", 4.0, 4),
    ("rms_norm_eps", "1e-5", 1e-5),
    ("layer_norm_epsilon", "0.00001", 1e-5),
    ("rope_theta", "1000000", 1e6),
    ("pad_token_id", 9999, None),
    ("pad_token_id", -7, None),
    ("pad_token_id", "<pad>", None),
    ("pad_token_id", -1, -1),
    ("pad_token_id", 319, 319),
    ("num_key_value_heads", None, None),
    ("num_key_value_heads", [2, 0, 4, 2], [2, 0, 4, 2]),
    ("_attn_implementation", "eager", "eager"),
]


@pytest.mark.parametrize(("name", "written", "read"), READ_AS_MEANT)
def test_a_member_is_read_as_it_is_meant(name: str, written: Any, read: Any) -> None:
    found = meant(**{name: written})[name]
    assert found == read
    assert type(found) is type(read)


NOT_FOLLOWED: list[tuple[str, Any]] = [
    ("dtype", "auto"), ("dtype", "fp8"), ("dtype", 16), ("dtype", {"text_config": "whatever"}),
    ("torch_dtype", "__import__"), ("return_dict", False), ("output_attentions", True), ("torchscript", True),
    ("_attn_implementation", "flash_attention_2"), ("attn_implementation", "kernels-community/flash-attn"),
    ("attn_implementation", {"text_config": "flex_attention"}), ("_attn_implementation_internal", ["sdpa"]),
    ("experts_implementation", "deepgemm"), ("configuration_files", ["config.4.0.0.json"]),
    ("transformers_weights", "other.safetensors"), ("use_kernels", True), ("distributed_config", {"tp": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), NOT_FOLLOWED)
@pytest.mark.parametrize("inside", [False, True])
def test_what_chooses_code_or_files_is_left_out(name: str, value: Any, inside: bool) -> None:
    members = {"text_config": CONFIG | {name: value}} if inside else {name: value}
    found = as_meant(CONFIG | members, "local:m")
    assert name not in (found.config["text_config"] if inside else found.config)
    if value != "auto" and not isinstance(value, dict):
        assert len(found.remarks) == 1
        assert name in found.remarks[0]
        assert found.remarks[0].isprintable()


REFUSED: list[tuple[str, Any]] = [
    ("num_hidden_layers", 2**70), ("num_hidden_layers", 10**9), ("num_hidden_layers", 0), ("num_hidden_layers", True),
    ("num_hidden_layers", 4.5), ("num_hidden_layers", -4), ("num_hidden_layers", {"a": 1}), ("hidden_size", 10**9),
    ("hidden_size", "wide"), ("vocab_size", 2**40), ("vocab_size", [320] * 5_000), ("num_key_value_heads", 0),
    ("num_key_value_heads", 3), ("num_attention_heads", 10**9), ("max_position_embeddings", 2**62),
    ("max_position_embeddings", 1e300), ("intermediate_size", 10**12), ("num_local_experts", 10**9),
    ("architectures", {"0": "LlamaForCausalLM"}), ("architectures", "LlamaForCausalLM"), ("architectures", [7]),
    ("architectures", ["x" * 101]), ("architectures", [""]),
    ("model_type", None), ("model_type", ["llama"]), ("model_type", ""), ("model_type", "x" * 101),
    ("model_type", "a\x1b[31m"), ("text_config", "llama"), ("text_config", ["llama"]),
    ("text_config", {"num_hidden_layers": 10**9}), ("vision_config", {"hidden_size": 10**12}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_no_model_has_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        meant(**{name: value})
    assert caught.value.hint
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 300


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
    | st.sampled_from([10**99, "1e-5", "torch.float16", "flash_attention_2", 9999, 0.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
MEMBERS = st.sampled_from([*CONFIG, "text_config", "torch_dtype", "_attn_implementation", "rope_scaling", "n_layer"])


@given(st.dictionaries(MEMBERS, ANY, max_size=4))
def test_any_configuration_is_read_or_refused_and_a_second_reading_changes_nothing(members: dict[str, Any]) -> None:
    before = json.dumps(CONFIG | members)
    try:
        once = as_meant(json.loads(before), "local:m")
    except SpinalError:
        return
    assert all(remark.isprintable() for remark in once.remarks)
    assert as_meant(once.config, "local:m").config == once.config


HEADER = {
    f"model.layers.{block}.mlp.up_proj.weight": {"dtype": "F32", "shape": [64, 32], "data_offsets": [0, 0]}
    for block in range(4)
} | {"model.embed_tokens.weight": {"dtype": "F32", "shape": [320, 32], "data_offsets": [0, 0]}}


def against(header: dict[str, Any], **members: Any) -> None:
    check_against_headers(Checkpoint(Path("m"), "local:m", CONFIG | members), [{}, header])


def test_a_configuration_that_fits_its_weights_passes() -> None:
    against(HEADER)
    against(HEADER, num_hidden_layers=3)
    against(HEADER, num_local_experts=8)
    against({name.removeprefix("model.layers."): tensor for name, tensor in HEADER.items()})


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_hidden_layers", 5), ("num_hidden_layers", 4_000), ("hidden_size", 48), ("vocab_size", 321),
     ("vocab_size", 50_000_000), ("num_local_experts", 60_000)],
)  # fmt: skip
def test_a_configuration_that_claims_more_than_the_weights_hold_is_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigInvalid, match="the weights hold"):
        against(HEADER, **{name: value})


def test_numbers_side_by_side_in_a_name_both_count() -> None:
    against({"h.0.3.weight": HEADER["model.embed_tokens.weight"]})
