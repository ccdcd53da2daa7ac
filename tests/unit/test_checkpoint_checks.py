"""What is refused about a checkpoint from its files alone, one reason at a time, and what is let through beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from spinal.checkpoints import files, held
from spinal.checkpoints import inspect as inspecting
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.identity import content_snapshot, host_identity, weights_digest
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.pair import check_pair
from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.sources.base import Setting
from spinal.checkpoints.sources.local import Local
from spinal.checkpoints.sources.reach import Reach
from spinal.errors import (
    AdapterInvalid,
    ArchitectureUnsupported,
    Cancelled,
    ConfigInvalid,
    ModelChanged,
    ModelNotFound,
    ModelPathRefused,
    ModelReferenceInvalid,
    NonFiniteWeights,
    PairMismatch,
    PickleWeightsRefused,
    QuantizationUnsupported,
    SpinalError,
    TokenizerInvalid,
    WeightsCorrupt,
    WeightsMissing,
)

CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 4,
    "vocab_size": 7, "max_position_embeddings": 16,
}  # fmt: skip
TOKENIZER: dict[str, Any] = {"version": "1.0", "model": {"vocab": {"a": 0}}}


FRAME = {"layers.9.frame": np.zeros((7, 4, 1, 0), dtype=np.float32)}
"""No numbers, and the blocks and extents that the configurations here claim."""


def safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    header, data = {}, b""
    for name, values in (tensors | FRAME).items():
        raw = values.tobytes()
        kind = {"float32": "F32", "float16": "F16", "int8": "I8", "uint32": "U32"}[values.dtype.name]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    packed = json.dumps(header).encode()
    return len(packed).to_bytes(8, "little") + packed + data


WEIGHTS = safetensors({"w": np.ones((2, 3), dtype=np.float32)})


def write(folder: Path, *, leave_out: tuple[str, ...] = (), config: object = CONFIG, **files: object) -> Path:
    """A small checkpoint; ``name__ext=content`` adds or replaces a file (bytes, or JSON)."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"config.json": config, "tokenizer.json": TOKENIZER, "model.safetensors": WEIGHTS}
    contents |= {name.replace("__", "."): content for name, content in files.items()}
    for name, content in contents.items():
        if name not in leave_out:
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / name).write_bytes(raw)
    return folder


def look(folder: Path) -> None:
    inspect(resolve_reference(str(folder), roots=None))


def changed(**members: object) -> dict[str, Any]:
    return {name: value for name, value in (CONFIG | members).items() if value is not ...}


def index(content: object, **files: object) -> dict[str, Any]:
    return {"leave_out": ("model.safetensors",), "model__safetensors__index__json": content, **files}


REFUSED: dict[str, tuple[dict[str, Any], type[SpinalError], str]] = {
    "config of more blocks than weights": ({"config": changed(num_hidden_layers=11)}, ConfigInvalid, "weights hold 10"),
    "config of another width": ({"config": changed(hidden_size=5)}, ConfigInvalid, "hidden_size 5"),
    "config nested deep": ({"config": b"[" * 100_000}, ConfigInvalid, "nested deeper"),
    "config that names a member twice": ({"config": b'{"a": 1, "a": 2}'}, ConfigInvalid, "occurs twice"),
    "tokenizer nested deep": ({"tokenizer__json": b'{"a":' * 9_999}, TokenizerInvalid, "nested deeper"),
    "index nested deep": (index(b"[" * 100_000), WeightsCorrupt, "nested deeper"),
    "no config": ({"leave_out": ("config.json",)}, ConfigInvalid, "has no config.json"),
    "config of bytes": ({"config": b"\xff"}, ConfigInvalid, "not UTF-8"),
    "config that is a list": ({"config": []}, ConfigInvalid, "not a JSON object"),
    "no model type": ({"config": changed(model_type=...)}, ConfigInvalid, "no model_type"),
    "model type that is no word": ({"config": changed(model_type=7)}, ConfigInvalid, "no model_type"),
    "encoder-decoder": (
        {"config": changed(is_encoder_decoder=True)}, ArchitectureUnsupported, r"encoder-decoder \(LlamaForCausalLM\)",
    ),
    "encoder-decoder without a name": (
        {"config": changed(is_encoder_decoder=True, architectures=...)}, ArchitectureUnsupported, r"decoder \(llama\)",
    ),
    "encoder with a language head": (
        {"config": changed(model_type="bert", architectures=["BertLMHeadModel"])},
        ArchitectureUnsupported, "attends to later tokens",
    ),
    "encoder without a name": (
        {"config": changed(model_type="electra", architectures=...)}, ArchitectureUnsupported, "electra is an encoder",
    ),
    "attention to both sides": (
        {"config": changed(use_bidirectional_attention=True)}, ArchitectureUnsupported, "attends to later tokens",
    ),
    "attention to both sides in the text tower": (
        {"config": {"model_type": "g", "architectures": ["GForConditionalGeneration"],
                    "text_config": changed(use_bidirectional_attention="all")}},
        ArchitectureUnsupported, "attends to later tokens",
    ),
    "not causal": ({"config": changed(is_causal=False)}, ArchitectureUnsupported, "is_causal: false"),
    "encoder": ({"config": changed(architectures=["BertModel"])}, ArchitectureUnsupported, "BertModel"),
    "name that only begins so": (
        {"config": changed(architectures=["LMHeadModelWithValue"])}, ArchitectureUnsupported, "LMHeadModelWithValue",
    ),
    "no depth": ({"config": changed(num_hidden_layers=...)}, ConfigInvalid, "no usable n_layers"),
    "depth of zero": ({"config": changed(num_hidden_layers=0)}, ConfigInvalid, "num_hidden_layers = 0"),
    "depth that is a flag": ({"config": changed(num_hidden_layers=True)}, ConfigInvalid, "num_hidden_layers = True"),
    "width of zero": ({"config": changed(hidden_size=0)}, ConfigInvalid, "hidden_size = 0"),
    "no vocabulary": ({"config": changed(vocab_size=...)}, ConfigInvalid, "no usable vocab_size"),
    "no tokenizer": ({"leave_out": ("tokenizer.json",)}, TokenizerInvalid, "it is missing"),
    "tokenizer of bytes": ({"tokenizer__json": b"\xff"}, TokenizerInvalid, "not UTF-8"),
    "tokenizer that is a list": ({"tokenizer__json": [1]}, TokenizerInvalid, "not a JSON object"),
    "tokenizer without a model": ({"tokenizer__json": {"model": "bpe"}}, TokenizerInvalid, "it is not a tokenizer"),
    "no weights": ({"leave_out": ("model.safetensors",)}, WeightsMissing, "holds no"),
    "pickle": (
        {"leave_out": ("model.safetensors",), "model__bin": b"x", "a__pt": b"x"}, PickleWeightsRefused, r"\(a\.pt\)",
    ),
    "index without a map": (index({}), WeightsCorrupt, "has no weight_map"),
    "index with an empty map": (index({"weight_map": {}}), WeightsCorrupt, "has no weight_map"),
    "index that is no object": (index([]), WeightsCorrupt, "not a JSON object"),
    "shard that is missing": (index({"weight_map": {"w": "other.safetensors"}}), WeightsMissing, "other"),
    "shard in another folder": (index({"weight_map": {"w": "../a.safetensors"}}), WeightsCorrupt, "of this folder"),
    "shard of pickle": (index({"weight_map": {"w": "a.bin"}}), WeightsCorrupt, "no safetensors file"),
    "shard that is no name": (index({"weight_map": {"w": ["a.safetensors"]}}), WeightsCorrupt, "for w"),
    "tensor that is missing": (
        index({"weight_map": {"v": "a.safetensors"}}, a__safetensors=WEIGHTS), WeightsCorrupt, "lacks tensor v",
    ),
    "tensor in two shards": (
        index(
            {"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}},
            a__safetensors=WEIGHTS, b__safetensors=WEIGHTS,
        ),
        WeightsCorrupt, "lies in a.safetensors and in b.safetensors",
    ),
    "weights under another name": (
        {"leave_out": ("model.safetensors",), "model_ema__safetensors": WEIGHTS}, WeightsMissing, "model_ema",
    ),
    "NaN": (
        {"model__safetensors": safetensors({"w": np.array([1.0, np.nan], dtype=np.float32)})}, NonFiniteWeights, "w in",
    ),
    "infinity": (
        {"model__safetensors": safetensors({"w": np.ones(1, np.float32), "v": np.array([np.inf], np.float16)})},
        NonFiniteWeights, "v in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_checkpoint_with_one_thing_wrong_is_refused_for_that(tmp_path: Path, name: str) -> None:
    files, error, said = REFUSED[name]
    with pytest.raises(error, match=said):
        look(write(tmp_path / "model", **files))


NO_WEIGHTS: dict[str, Any] = {"leave_out": ("model.safetensors",)}
OF_TRAINER: dict[str, Any] = {"training_args__bin": b"x", "optimizer__pt": b"x", "rng_state_0__pth": b"x"}
EMPTY = {name: np.zeros(0, np.float32) for name in ("w", "model.layers.0.w", "model.layers.1.w")}
WORDS = {"model.layers.1.w": np.zeros((7, 4), np.uint32)}
LEFT: dict[str, tuple[dict[str, Any], type[SpinalError], str, str]] = {
    "what a trainer resumes from": (NO_WEIGHTS | OF_TRAINER, WeightsMissing, "holds no", "save_pretrained"),
    "shards of FSDP": (
        NO_WEIGHTS | OF_TRAINER | {"pytorch_model_fsdp_0": b"x"}, WeightsMissing, "shards of FSDP", "merge-weights",
    ),
    "distributed shards": (NO_WEIGHTS | {"__0_0__distcp": b"x"}, WeightsMissing, "shards of FSDP", "merge-weights"),
    "shards of DeepSpeed": (
        NO_WEIGHTS | OF_TRAINER | {"global_step20": b"x", "zero_to_fp32__py": b"x"},
        WeightsMissing, "shards of DeepSpeed", "zero_to_fp32.py FOLDER",
    ),
    "GGUF": (NO_WEIGHTS | {"model-q4__gguf": b"x"}, WeightsMissing, "as GGUF", "made from"),
    "a pickle beside the shards": (
        NO_WEIGHTS | {"pytorch_model__bin": b"x", "zero_to_fp32__py": b"x"},
        PickleWeightsRefused, "pytorch_model.bin", "save_pretrained",
    ),
    "weights that ZeRO-3 left empty": (
        {"model__safetensors": save(EMPTY)}, WeightsCorrupt, "all 3 tensors are empty", "zero_to_fp32.py",
    ),
    "MLX": (
        {"config": changed(quantization={"bits": 4}), "model__safetensors": safetensors(WORDS)},
        QuantizationUnsupported, "as MLX does it", "mlx_lm.convert",
    ),
    "MLX in both places": (
        {"config": changed(quantization={"bits": 4}, quantization_config={"bits": 4}),
         "model__safetensors": safetensors(WORDS)},
        QuantizationUnsupported, "as MLX does it", "mlx_lm.convert",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_other_tools_leave_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    files, error, said, remedy = LEFT[name]
    with pytest.raises(error, match=said) as refused:
        look(write(tmp_path / "model", **files))
    assert remedy in str(refused.value.hint)


ACCEPTED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no architecture": {"config": changed(architectures=...)},
    "decoder of an encoder's family": {
        "config": changed(model_type="bert", architectures=["BertLMHeadModel"], is_decoder=True)
    },
    "both sides for images alone": {"config": changed(use_bidirectional_attention="vision")},
    "blocks by kind": {"config": changed(num_hidden_layers=..., layers_block_type=["mamba", "attention"])},
    "names of a decoder": {
        "config": changed(num_hidden_layers=..., hidden_size=..., encoder_layers=9, decoder_layers=2, d_model=4)
    },
    "sizes that are the defaults of the text tower's type": {
        "config": {
            "model_type": "llava",
            "architectures": ["LlavaForConditionalGeneration"],
            "text_config": {"model_type": "llama", "vocab_size": 7},
        }
    },
    "one block of width one": {"config": changed(num_hidden_layers=1, hidden_size=1, vocab_size=1)},
    "GPT-2 names": {
        "config": changed(
            architectures=["GPT2LMHeadModel"], num_hidden_layers=..., hidden_size=..., n_layer=2, n_embd=4
        )
    },
    "shape inside text_config": {
        "config": {"model_type": "g", "architectures": ["GForCausalLM"], "text_config": {**CONFIG}}
    },
    "shards": index({"weight_map": {"w": "a.safetensors"}}, a__safetensors=WEIGHTS),
    "an index of shards that are gone beside whole weights": {
        "model__safetensors__index__json": {"weight_map": {"w": "model-00001-of-00002.safetensors"}}
    },
    "another safetensors file, which is not read": {"model_ema__safetensors": b"x"},
    "numbers that cannot be NaN": {"model__safetensors": safetensors({"h.0.attn.bias": np.full(4, -1, dtype=np.int8)})},
    "pickle beside safetensors": {"pytorch_model__bin": b"x"},
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_checkpoint_with_nothing_wrong_passes(tmp_path: Path, name: str) -> None:
    look(write(tmp_path / "model", **ACCEPTED[name]))


def test_a_folder_of_more_files_than_are_looked_at_says_at_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "model")
    for number in range(8):
        (folder / f"stray-{number}").touch()
    [counted] = resolve_reference(str(folder), roots=None).remarks
    assert counted.endswith(" and 3 more")
    monkeypatch.setattr(files, "MOST_ENTRIES", 10)
    [stopped] = resolve_reference(str(folder), roots=None).remarks
    assert " and at least " in stopped


def test_weights_are_scanned_up_to_a_size_and_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = safetensors({"w": np.array([np.nan], dtype=np.float32)})
    folder = write(tmp_path / "model", model__safetensors=raw)
    monkeypatch.setattr(inspecting, "SCAN_BYTES", len(raw) - 1)
    look(folder)
    monkeypatch.setattr(inspecting, "SCAN_BYTES", len(raw))
    with pytest.raises(NonFiniteWeights):
        look(write(tmp_path / "again", model__safetensors=raw))


def test_shape_and_limits_are_read_from_the_config(tmp_path: Path) -> None:
    found = resolve_reference(str(write(tmp_path / "model")), roots=None)
    assert (found.n_layers, found.hidden_size, found.vocab_size, found.max_positions) == (2, 4, 7, 16)
    assert found.architecture == "LlamaForCausalLM"
    assert found.source == "local:model"
    assert Checkpoint(tmp_path, "s", {"num_layers": 3, "n_layers": 5}).n_layers == 5


# references


@pytest.mark.parametrize("reference", ["", "x" * 1025, "local:a\x00b", "hf:org/name", "local:", ":x"])
def test_a_reference_that_names_no_local_folder_is_invalid(tmp_path: Path, reference: str) -> None:
    for roots in (None, [tmp_path]):
        with pytest.raises(ModelReferenceInvalid):
            resolve_reference(reference, roots=roots)


def test_a_reference_may_be_as_long_as_it_says(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        resolve_reference("a/" * 512, roots=[tmp_path])


@pytest.mark.parametrize("roots", [True, False])
def test_a_checkpoint_is_found_by_name_or_path(tmp_path: Path, roots: bool) -> None:
    folder = write(tmp_path / "root" / "sub" / "model")
    allowed = [tmp_path / "empty", tmp_path / "root"] if roots else None
    (tmp_path / "empty").mkdir()
    names = ("sub/model", "local:sub/model") if roots else (str(folder), f"local:{folder}")
    for name in names:
        found = resolve_reference(name, roots=allowed)
        assert found.path == folder
        assert found.source == ("local:sub/model" if roots else "local:model")
        assert found.base is None
    with pytest.raises(ModelNotFound):
        resolve_reference("local:sub/other" if roots else str(folder / "other"), roots=allowed)
    with pytest.raises(ModelNotFound):
        resolve_reference("local:sub/model/config.json" if roots else str(folder / "config.json"), roots=allowed)


def test_nothing_outside_the_roots_can_be_named(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", write(tmp_path / "outside")
    write(root / "model")
    (root / "link").symlink_to(outside)
    for reference in ("../outside", "../missing", "link", str(outside), ".", "model/.."):
        with pytest.raises(ModelPathRefused):
            resolve_reference(f"local:{reference}", roots=[root])
    assert resolve_reference(f"local:{root / 'model'}", roots=[root]).source == "local:model"


def test_a_name_is_looked_for_below_every_root(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("loop", "leads-out", "holds-it")]
    for root in roots:
        root.mkdir()
    (roots[0] / "model").symlink_to(roots[0] / "model")
    (roots[1] / "model").symlink_to(write(tmp_path / "elsewhere"))
    folder = write(roots[2] / "model")
    assert resolve_reference("local:model", roots=roots).path == folder


def test_a_name_with_a_null_byte_is_not_found_by_the_source_itself(tmp_path: Path) -> None:
    for roots in (None, (tmp_path,)):
        with pytest.raises(ModelNotFound):
            Local(Setting(None, roots, Reach().pin)).pin("a\x00b")


def test_a_folder_in_the_place_of_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    for name, error in (("config.json", ConfigInvalid), ("tokenizer.json", TokenizerInvalid)):
        folder = write(tmp_path / name.partition(".")[0], leave_out=(name,))
        (folder / name).mkdir()
        with pytest.raises(error):
            look(folder)


def test_a_name_that_no_file_system_holds_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for reference in ("n" * 300, "loop"):
        with pytest.raises(ModelNotFound):
            resolve_reference(f"local:{reference}", roots=[tmp_path])
        with pytest.raises(ModelNotFound):
            resolve_reference(str(tmp_path / reference), roots=None)


# adapters


def adapter(folder: Path, base: object) -> Path:
    return write(
        folder,
        leave_out=("config.json", "tokenizer.json", "model.safetensors"),
        adapter_config__json={"base_model_name_or_path": base, "peft_type": "LORA", "task_type": "CAUSAL_LM"},
        adapter_model__safetensors=low_rank(1.0),
    )


def low_rank(value: float) -> bytes:
    return save({"base_model.model.w.lora_A.weight": np.full((2, 3), value, dtype=np.float32)})


@pytest.mark.parametrize("served", [True, False])
def test_an_adapter_takes_shape_and_tokenizer_from_its_base(tmp_path: Path, served: bool) -> None:
    base = write(tmp_path / "base")
    folder = adapter(tmp_path / "lora", "../base")
    found = resolve_reference("lora" if served else str(folder), roots=[tmp_path] if served else None)
    assert found.base is not None
    assert found.base.path == base
    assert (found.path, found.source, found.config) == (folder, "local:lora", CONFIG)
    inspect(found)
    (base / "tokenizer.json").unlink()
    with pytest.raises(TokenizerInvalid):
        inspect(found)


def test_an_adapter_of_a_base_elsewhere_is_found_by_name_on_a_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    for name in ("base", str(base)):
        found = resolve_reference(str(adapter(tmp_path / "deep" / "er" / "lora", name)), roots=None)
        assert found.base is not None
        assert found.base.path == base


@pytest.mark.parametrize("base", [None, "", 7, "../missing", "../lora", "hf:x"])
@pytest.mark.parametrize("served", [True, False])
def test_an_adapter_without_a_usable_base_is_invalid(tmp_path: Path, base: object, served: bool) -> None:
    write(tmp_path / "base")
    adapter(tmp_path / "lora", "../base")
    folder = adapter(tmp_path / "second", base)
    with pytest.raises(AdapterInvalid):
        resolve_reference("second" if served else str(folder), roots=[tmp_path] if served else None)


def test_an_adapter_whose_base_lies_outside_the_roots_is_invalid(tmp_path: Path) -> None:
    write(tmp_path / "base")
    adapter(tmp_path / "root" / "lora", "../../base")
    with pytest.raises(AdapterInvalid):
        resolve_reference("lora", roots=[tmp_path / "root"])


def test_the_weights_of_an_adapter_and_of_its_base_are_both_looked_at(tmp_path: Path) -> None:
    broken = safetensors({"w": np.array([np.inf], dtype=np.float32)})
    for name, parts in (("base", {"base": broken}), ("lora", {"lora": low_rank(np.inf)})):
        root = tmp_path / name
        base = write(root / "base")
        folder = adapter(root / "lora", "../base")
        look(folder)
        for part, raw in parts.items():
            {"base": base / "model.safetensors", "lora": folder / "adapter_model.safetensors"}[part].write_bytes(raw)
        with pytest.raises(NonFiniteWeights, match=name):
            look(folder)


# pairs


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"num_hidden_layers": 3}, "n_layers differs: .* has 2, .* has 3"),
        ({"hidden_size": 8}, "hidden_size differs: .* has 4, .* has 8"),
    ],
)
def test_a_pair_of_two_shapes_is_refused(tmp_path: Path, members: dict[str, int], named: str) -> None:
    one, other = write(tmp_path / "one"), write(tmp_path / "other", config=CONFIG | members)
    with pytest.raises(PairMismatch, match=named):
        check_pair(*(resolve_reference(str(folder), roots=None) for folder in (one, other)))


def test_a_pair_of_one_ancestor_passes_whatever_else_differs(tmp_path: Path) -> None:
    one = write(tmp_path / "one")
    other = write(
        tmp_path / "other",
        config=CONFIG | {"max_position_embeddings": 99, "vocab_size": 9},
        tokenizer__json=TOKENIZER | {"version": "2.0", "padding": {}},
    )
    lora = adapter(tmp_path / "lora", "../other")
    for candidate in (other, lora):
        check_pair(*(resolve_reference(str(folder), roots=None) for folder in (one, candidate)))


# identities

Digest = Callable[[Checkpoint], str]


@pytest.mark.parametrize("digest", [content_snapshot, host_identity, weights_digest])
def test_an_identity_holds_every_file_that_shapes_the_model_and_its_base(tmp_path: Path, digest: Digest) -> None:
    write(tmp_path / "base", tokenizer_config__json={}, special_tokens_map__json={})
    folder = adapter(tmp_path / "lora", "../base")

    def now() -> str:
        return digest(resolve_reference(str(folder), roots=None))

    seen = [now()]
    assert now() == seen[0]
    for beside in ("README.md", "../base/more.safetensors", "model.safetensors", "adapter_model.bin"):
        (folder / beside).write_text("of no account")
        assert now() == seen[0]
    for part in ("lora/adapter_config.json", "lora/adapter_model.safetensors", "base/config.json",
                 "base/tokenizer.json", "base/tokenizer_config.json", "base/special_tokens_map.json",
                 "base/model.safetensors"):  # fmt: skip
        file = tmp_path / part
        file.write_bytes((file.read_bytes() if file.exists() else b"{}") + b" ")
        seen.append(now())
    assert len(set(seen)) == len(seen)


def test_content_has_one_identity_wherever_it_lies(tmp_path: Path) -> None:
    one, other = (resolve_reference(str(write(tmp_path / name)), roots=None) for name in ("one", "other"))
    assert weights_digest(one) == weights_digest(other)
    assert content_snapshot(one) == content_snapshot(other)
    assert host_identity(one) != host_identity(other)


def test_hashing_says_how_far_it_is_and_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "base")
    lora = resolve_reference(str(adapter(tmp_path / "lora", "../base")), roots=None)
    monkeypatch.setattr(held, "HASH_PIECE", 64)
    steps: list[Any] = []
    weights_digest(lora, progress=steps.append)
    files = [file for name in ("base", "lora") for file in (tmp_path / name).iterdir()]
    total = sum(file.stat().st_size for file in files)
    assert {step.phase for step in steps} == {"hash"}
    assert [step.done for step in steps] == sorted({step.done for step in steps})
    assert {(step.total, step.fraction) for step in steps} == {(total, 0.0)}
    assert steps[-1].done == total
    assert steps[0].done <= 64
    steps.clear()
    with pytest.raises(Cancelled):
        weights_digest(lora, progress=steps.append, cancelled=lambda: len(steps) == 2)
    assert len(steps) == 2


@pytest.mark.parametrize("changes", [True, False])
@pytest.mark.parametrize("settled_after_s", [0, 3600])
def test_an_error_is_its_own_whatever_the_age_of_the_files_unless_one_was_seen_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled_after_s: int, changes: bool
) -> None:
    monkeypatch.setattr(held, "SETTLED_NS", settled_after_s * 10**9)
    write(tmp_path / "base")
    lora = resolve_reference(str(adapter(tmp_path / "lora", "../base")), roots=None)

    def read() -> None:
        with held.hold(lora):
            if changes:
                (tmp_path / "base" / "tokenizer.json").unlink()
            raise WeightsCorrupt("found while it was read")

    with pytest.raises(ModelChanged if changes else WeightsCorrupt):
        read()
