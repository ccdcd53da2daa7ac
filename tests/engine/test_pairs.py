"""Pairs as people have them: other vocabularies, re-saved tokenizers, none at all, a base that lies elsewhere.

What holds for all: the ids of the prompts are what both sides share, ids are read as far as every side knows them, and
what was not read is said with a number.
"""

import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import spinal
from spinal.checkpoints.resolve import resolve_reference, resolve_tokenizer
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace, trace_digest
from spinal.errors import (
    AdapterInvalid,
    SpinalError,
    TokenizerInvalid,
    TokenizerMismatch,
    TracesNotComparable,
    UsageError,
)

WORDS = ["river", "stone", "light", "morning", "evening", "paper", "window", "garden", "winter", "summer"]
PROMPTS = [" ".join(random.Random(n).choices(WORDS, k=12)) for n in range(24)]
QUICK: dict[str, Any] = {
    "prompts": PROMPTS, "max_tokens": 32, "lens_positions": 4, "swap_prompts": 8, "cache": False,
}  # fmt: skip
MEASURED = {name: value for name, value in QUICK.items() if name != "swap_prompts"}
Shelf = Callable[..., Path]


def make_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<unk>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator([" ".join(WORDS * 3)], trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return build(tmp_path_factory.mktemp("pairs") / "base", tokenizer)


@pytest.fixture
def moved(base: Path, tmp_path: Path) -> Path:
    """The base with another second block."""
    folder = copy(base, tmp_path / "moved")
    change(folder, lambda t: t | {name: w * 1.1 for name, w in t.items() if ".1.mlp" in name})
    return folder


def build(folder: Path, tokenizer: Any, **members: Any) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": 3,
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **(shape | members))).float()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def copy(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder))


def change(folder: Path, how: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Rewrite the weights of a checkpoint, and the number of its rows in the configuration."""
    file = folder / "model.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in how(load_file(file)).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    rewrite(folder / "config.json", vocab_size=len(tensors["model.embed_tokens.weight"]))
    return folder


def rewrite(path: Path, **members: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


def with_rows(folder: Path, rows: int, seed: int = 5) -> Path:
    """More rows of the vocabulary, of the size of the others."""

    def longer(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            size = (rows - len(tensors[name]), tensors[name].shape[1])
            tensors[name] = torch.cat([tensors[name], 0.15 * torch.randn(size, generator=generator)])
        return tensors

    return change(folder, longer)


def without_tokenizer(folder: Path) -> Path:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    return folder


def lora(base: Path, folder: Path, named: str) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    settings = LoraConfig(target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(str(folder))
    rewrite(folder / "adapter_config.json", base_model_name_or_path=named)
    return folder


def added_token(folder: Path, text: str, index: int, *, in_model: bool = False) -> None:
    file = folder / "tokenizer.json"
    found = json.loads(file.read_text())
    if in_model:
        found["model"]["vocab"][text] = index
    found["added_tokens"].append(found["added_tokens"][-1] | {"id": index, "content": text})
    file.write_text(json.dumps(found))


def numbers(trace: Trace) -> Any:
    return trace.model_dump(include={"layers", "nll", "parity_rad", "vocabulary"})


def exactly_zero(found: Comparison) -> bool:
    """Whether every difference of any layer that has a value is exactly 0."""
    return all(
        value in (None, 0.0)
        for layer in found.layers
        for value in (
            layer.weight_change, layer.block_swap.value, layer.function_gap.all.value, layer.d_transport.all.value,
            layer.d_entropy.all.value, layer.d_contraction.all.value, layer.d_transport.last.value,
        )
    )  # fmt: skip


def said(found: Comparison | Trace, *words: str) -> bool:
    return any(all(word in warning for word in words) for warning in found.warnings)


# vocabularies


@pytest.mark.parametrize("more", [1, 64])
def test_a_vocabulary_with_more_rows_is_compared_over_the_ids_that_both_know(
    base: Path, tmp_path: Path, tokenizer: Any, more: int
) -> None:
    """An added pad token, or padding to a multiple of 64: nothing that is read has changed, so all is exactly 0."""
    known = len(tokenizer)
    found = spinal.compare(base, with_rows(copy(base, tmp_path / "pad"), known + more), **QUICK)
    assert exactly_zero(found)
    assert found.weight_change_other == {"embeddings": 0.0, "final_norm": 0.0, "head": 0.0}
    assert not found.readout_moved
    assert said(found, f"ids 0..{known - 1} are read", f"{known} (reference), {known + more} (candidate)")


def test_rows_that_transformers_adds(base: Path, tmp_path: Path, tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer) + 1)
    model.save_pretrained(tmp_path / "pad")
    tokenizer.save_pretrained(tmp_path / "pad")
    for pair in ((base, tmp_path / "pad"), (tmp_path / "pad", base)):
        found = spinal.compare(*pair, **QUICK)
        assert exactly_zero(found)
        assert said(found, "probability of the candidate's own output")


def test_the_probability_beyond_is_that_of_the_models_own_output(base: Path, tmp_path: Path, tokenizer: Any) -> None:
    """Softmax over all rows, in float64, at the positions that are read; the engine's logits are float32, good to
    about 1e-6 of a share."""
    from transformers import AutoModelForCausalLM

    known = len(tokenizer)
    folder = with_rows(copy(base, tmp_path / "pad"), known + 64)
    trace = spinal.trace(folder, **{**MEASURED, "lens_positions": "full"})
    model = AutoModelForCausalLM.from_pretrained(folder)
    shares = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"][-32:]
        with torch.inference_mode():
            p = model(torch.tensor([ids])).logits[0, 1:].double().softmax(-1)
        shares.append(float(p[:, known:].sum(-1).mean()))
    assert trace.vocabulary is not None
    assert trace.vocabulary.ids == known
    assert trace.vocabulary.outside == pytest.approx(np.mean(shares), abs=1e-6)
    assert said(trace, f"ids 0..{known - 1} of {known + 64} are read")


def test_what_is_beyond_changes_nothing(base: Path, tmp_path: Path, tokenizer: Any) -> None:
    """Rows that no token has, in another order: the same numbers, bit for bit."""
    known = len(tokenizer)
    one = with_rows(copy(base, tmp_path / "one"), known + 40)
    order = torch.cat([torch.arange(known), known + torch.randperm(40, generator=torch.Generator().manual_seed(3))])
    both = ("model.embed_tokens.weight", "lm_head.weight")
    other = change(copy(one, tmp_path / "other"), lambda t: t | {name: t[name][order] for name in both})
    traces = [spinal.trace(folder, **MEASURED) for folder in (one, other)]
    for trace in traces:
        assert trace.vocabulary is not None
    outside = [trace.vocabulary.outside for trace in traces if trace.vocabulary]
    # A sum of 40 exponentials in another order.
    assert outside[0] == pytest.approx(outside[1], rel=1e-12)
    assert traces[0].layers == traces[1].layers
    assert traces[0].model.readout_digest == traces[1].model.readout_digest
    found = spinal.compare(one, other, **QUICK)
    assert exactly_zero(found)
    assert not found.readout_moved


def test_a_token_that_only_one_side_knows_is_read_on_neither(base: Path, tmp_path: Path, tokenizer: Any) -> None:
    known = len(tokenizer)
    more = with_rows(copy(base, tmp_path / "more"), known + 1)
    added_token(more, "<extra>", known)
    alone = spinal.trace(more, **MEASURED)
    assert alone.vocabulary is not None
    assert alone.vocabulary.ids == known + 1
    assert alone.reading.members == {}
    found = spinal.compare(base, more, control=more, **QUICK)
    assert exactly_zero(found)
    assert found.candidate.digest != alone.digest
    assert found.reference.digest == spinal.trace(base, **MEASURED).digest
    assert said(found, f"ids 0..{known - 1} are read", "(control)")


def test_a_stored_trace_says_how_far_the_other_side_is_read(base: Path, tmp_path: Path, tokenizer: Any) -> None:
    known = len(tokenizer)
    more = with_rows(copy(base, tmp_path / "more"), known + 1)
    added_token(more, "<extra>", known)
    knobs = QUICK | {"cache": True}
    stored = spinal.trace(base, **(MEASURED | {"cache": True}))
    found = spinal.compare(stored, more, **knobs)
    assert all(layer.d_transport.all.value in (None, 0.0) for layer in found.layers)
    with pytest.raises(SpinalError, match="number of ids read differs"):
        spinal.compare(spinal.trace(more, **(MEASURED | {"cache": True})), base, **knobs)


def test_matched_noise_lies_in_the_rows_that_both_sides_have(base: Path, tmp_path: Path, tokenizer: Any) -> None:
    wide = build(tmp_path / "wide", tokenizer, hidden_size=64)
    folder = with_rows(copy(wide, tmp_path / "pad"), len(tokenizer) + 64)
    change(folder, lambda t: {name: w * 1.01 for name, w in t.items()})
    found = spinal.compare(wide, folder, noise_draws=2, **QUICK)
    assert len(found.nulls["matched_noise"].values) == 2
    # Every weight grew by a hundredth, float32.
    assert found.weight_change_other["embeddings"] == pytest.approx(0.01, rel=1e-4)
    assert found.weight_change_other["head"] == pytest.approx(0.01, rel=1e-4)


def test_ids_beyond_the_number_of_tokens_are_read(base: Path, tmp_path: Path, tokenizer: Any) -> None:
    """A vocabulary with gaps: the count of its tokens is not its largest id."""
    from spinal.prompts.sets import PromptSet

    known = len(tokenizer)
    gaps = build(tmp_path / "gaps", tokenizer, vocab_size=known + 64)
    added_token(gaps, "<end>", known + 40, in_model=True)
    prompts = PromptSet(("river stone",), (" light <end>",))
    trace = spinal.trace(gaps, prompts=prompts, cache=False)
    assert trace.vocabulary is not None
    assert trace.vocabulary.ids == known + 41
    assert trace.nll is not None
    assert trace.nll_source == "continuations"


# tokenizers


def re_saved(folder: Path) -> None:
    file = folder / "tokenizer.json"
    found = json.loads(file.read_text())
    found["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 3, "pad_type_id": 0,
        "pad_token": "<pad>",
    }  # fmt: skip
    found["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(found))


def respelled(folder: Path) -> None:
    """Merges as pairs where they were texts, or the other way round."""
    file = folder / "tokenizer.json"
    found = json.loads(file.read_text())
    merges = found["model"]["merges"]
    found["model"]["merges"] = [" ".join(m) if isinstance(m, list) else m.split(" ", 1) for m in merges]
    file.write_text(json.dumps(found, indent=1))


RE_SAVED: dict[str, Callable[[Path], None]] = {
    "padding and truncation": re_saved,
    "spelling of merges": respelled,
    "an added token that no prompt holds": partial(added_token, text="<extra>", index=307),
    "no settings beside it": lambda folder: (folder / "tokenizer_config.json").unlink(),
}


@pytest.mark.parametrize("how", RE_SAVED)
def test_a_tokenizer_that_gives_the_same_ids_is_the_same(base: Path, tmp_path: Path, how: str) -> None:
    folder = copy(base, tmp_path / "again")
    RE_SAVED[how](folder)
    assert exactly_zero(spinal.compare(base, folder, **QUICK))


def test_other_ids_of_the_prompts_are_no_pair(base: Path, tmp_path: Path) -> None:
    folder = copy(base, tmp_path / "other")
    file = folder / "tokenizer.json"
    found = json.loads(file.read_text())
    vocabulary = found["model"]["vocab"]
    vocabulary["Ġ"], vocabulary["z"] = vocabulary["z"], vocabulary["Ġ"]
    found["model"]["merges"] = []
    file.write_text(json.dumps(found))
    with pytest.raises(TokenizerMismatch, match="different token ids"):
        spinal.compare(base, folder, **QUICK)
    # The same tokenizer for both sides settles it.
    found = spinal.compare(base, folder, tokenizer=base, **QUICK)
    assert exactly_zero(found)
    assert said(found, "candidate", "the tokenizer of local:base", "holds another one")


def test_ids_that_are_cut_off_and_never_read_may_differ(base: Path, tmp_path: Path) -> None:
    folder = copy(base, tmp_path / "other")
    rewrite(folder / "tokenizer.json", post_processor=None)
    long = QUICK | {"prompts": [f"{prompt} {prompt}" for prompt in PROMPTS], "max_tokens": 16}
    assert exactly_zero(spinal.compare(base, folder, **long))
    with pytest.raises(TokenizerMismatch, match="turn prompt 1 into"):
        spinal.compare(base, folder, **(QUICK | {"max_tokens": 256}))


def test_other_ids_of_the_continuations_are_no_pair(base: Path, tmp_path: Path, tokenizer: Any) -> None:
    from spinal.prompts.sets import PromptSet

    folder = copy(base, tmp_path / "other")
    added_token(folder, " zebra", len(tokenizer) - 1)
    prompts = PromptSet(tuple(PROMPTS), (" zebra",) * len(PROMPTS))
    pair = (base, with_rows(folder, len(tokenizer) + 1))
    with pytest.raises(TokenizerMismatch, match="different token ids"):
        spinal.compare(*pair, **(QUICK | {"prompts": prompts}))
    traces = [spinal.trace(side, **(MEASURED | {"prompts": prompts, "cache": True})) for side in pair]
    with pytest.raises(TracesNotComparable, match="token ids of continuations"):
        spinal.compare(*traces, **(QUICK | {"prompts": prompts, "cache": True}))


def test_a_side_without_a_tokenizer_reads_with_that_of_the_reference(base: Path, moved: Path, tmp_path: Path) -> None:
    bare = without_tokenizer(copy(moved, tmp_path / "bare"))
    whole, found = spinal.compare(base, moved, **QUICK), spinal.compare(base, bare, control=bare, **QUICK)
    assert found.layers == whole.layers
    assert said(found, "candidate and control", "the tokenizer of local:base", "local:bare holds none")
    assert str(base) not in found.model_dump_json(exclude={"provenance"})
    turned = spinal.compare(bare, base, **QUICK)
    assert said(turned, "reference", "the tokenizer of local:base")


def test_no_side_with_a_tokenizer_is_an_error_that_says_what_to_do(base: Path, tmp_path: Path) -> None:
    bare = without_tokenizer(copy(base, tmp_path / "bare"))
    with pytest.raises(TokenizerInvalid, match=r"none of local:bare, local:bare") as caught:
        spinal.compare(bare, bare, **QUICK)
    assert "--tokenizer" in str(caught.value.hint)
    with pytest.raises(TokenizerInvalid, match="it is missing") as caught:
        spinal.trace(bare, **MEASURED)
    assert "--tokenizer" in str(caught.value.hint)
    assert exactly_zero(spinal.compare(bare, bare, tokenizer=base, **QUICK))


def test_a_damaged_tokenizer_is_not_passed_over(base: Path, tmp_path: Path) -> None:
    folder = copy(base, tmp_path / "damaged")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerInvalid, match="local:damaged"):
        spinal.compare(base, folder, **QUICK)


# identities


def test_one_checkpoint_under_two_tokenizers_or_two_vocabularies_is_two_traces(
    base: Path, tmp_path: Path, tokenizer: Any
) -> None:
    known = len(tokenizer)
    other = copy(base, tmp_path / "other")
    added_token(other, "<extra>", known)
    bare = without_tokenizer(copy(base, tmp_path / "bare"))
    first, second = (spinal.trace(bare, tokenizer=lender, **MEASURED) for lender in (base, other))
    assert first.model.weights_digest == second.model.weights_digest
    assert first.digest != second.digest
    assert first.layers == second.layers, "the ids are the same, and so are the numbers"

    padded = with_rows(copy(base, tmp_path / "padded"), known + 2)
    added_token(padded, "<one>", known)
    added_token(padded, "<two>", known + 1)
    one = with_rows(copy(base, tmp_path / "one"), known + 1)
    added_token(one, "<one>", known)
    digests = {
        spinal.trace(padded, **MEASURED).digest,
        spinal.compare(base, padded, **QUICK).candidate.digest,
        spinal.compare(one, padded, **QUICK).candidate.digest,
    }
    assert len(digests) == 3


def test_naming_its_own_tokenizer_makes_no_other_trace(base: Path, tmp_path: Path) -> None:
    plain = spinal.trace(base, **MEASURED)
    assert spinal.trace(base, tokenizer=base, **MEASURED).digest == plain.digest
    assert spinal.trace(base, tokenizer=copy(base, tmp_path / "twin"), **MEASURED).digest == plain.digest
    assert plain.digest == trace_digest(
        plain.model.weights_digest, plain.prompt_set.digest, plain.fingerprint, plain.engine.version
    )


def test_a_trace_of_before_is_still_a_document(base: Path) -> None:
    made = spinal.trace(base, **MEASURED)
    before = made.model_dump(mode="json", by_alias=True, exclude={"reading", "vocabulary"})
    assert Trace.model_validate(before).digest == made.digest


def test_a_tokenizer_that_changes_is_noticed(base: Path, tmp_path: Path) -> None:
    from spinal.checkpoints.held import hold
    from spinal.checkpoints.pair import lend_tokenizers
    from spinal.errors import ModelChanged

    lender = copy(base, tmp_path / "lender")
    bare = without_tokenizer(copy(base, tmp_path / "bare"))
    side = resolve_reference(str(bare), roots=None)
    [lent] = lend_tokenizers([side], resolve_tokenizer(str(lender), roots=None))
    with hold(lent) as held:
        held.hash_unsettled()
        assert sorted(p.name for p in held.checkpoint.tokenizing.path.iterdir()) == [
            "tokenizer.json", "tokenizer_config.json",
        ]  # fmt: skip
        held.require_unchanged()
        (lender / "tokenizer.json").write_text("{}")
        with pytest.raises(ModelChanged, match="local:lender"):
            held.require_unchanged()


# bases


def test_an_adapter_whose_base_is_not_here_is_measured_on_the_reference(base: Path, tmp_path: Path) -> None:
    folder = lora(base, tmp_path / "lora", "acme/base-7b")
    found = spinal.compare(base, folder, control=folder, **QUICK)
    assert said(found, "candidate and control", "'acme/base-7b'")
    here = spinal.compare(base, lora(base, tmp_path / "here", str(base)), **QUICK)
    assert found.layers == here.layers


def test_a_reference_that_does_not_fit_is_not_taken(base: Path, tmp_path: Path, tokenizer: Any) -> None:
    folder = lora(base, tmp_path / "lora", "acme/base-7b")
    wider = build(tmp_path / "wider", tokenizer, hidden_size=64)
    with pytest.raises(AdapterInvalid, match=r"'acme/base-7b' is not at hand.*_proj is 64 x 64.*32 x 32"):
        spinal.compare(wider, folder, **QUICK)
    (tmp_path / "sources.yaml").write_text("{}")
    with pytest.raises(AdapterInvalid, match="was not found") as caught:
        spinal.trace(folder, sources=tmp_path / "sources.yaml", **MEASURED)
    assert "--base" in str(caught.value.hint)


def test_a_base_that_is_named_is_the_base(base: Path, moved: Path, tmp_path: Path) -> None:
    folder = lora(base, tmp_path / "lora", "acme/base-7b")
    on_base, on_moved = (spinal.trace(folder, base=one, **MEASURED) for one in (base, moved))
    assert on_base.model.weights_digest != on_moved.model.weights_digest
    assert said(on_base, "'acme/base-7b'")
    found = spinal.compare(moved, folder, base=base, **QUICK)
    assert found.candidate.weights_digest == on_base.model.weights_digest
    with pytest.raises(UsageError, match="no side is an adapter"):
        spinal.compare(base, moved, base=base, **QUICK)
    with pytest.raises(UsageError, match="no side is an adapter"):
        spinal.trace(base, base=base, **MEASURED)
    with pytest.raises(AdapterInvalid, match="itself an adapter"):
        spinal.trace(folder, base=lora(base, tmp_path / "second", str(base)), **MEASURED)


# the command line


def test_the_command_line_takes_both(base: Path, tmp_path: Path) -> None:
    from tests.cli.test_cli import spinal as command

    prompts = tmp_path / "p.txt"
    prompts.write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    folder = lora(base, tmp_path / "lora", "acme/base-7b")
    bare = without_tokenizer(copy(base, tmp_path / "bare"))
    quick = ["--prompts", str(prompts), "--max-tokens", "16", "--lens-positions", "2", "--json", "--no-cache"]
    compared = command("compare", str(bare), str(folder), *quick, "--base", str(base), "--tokenizer", str(base))
    assert compared.returncode == 0, compared.stderr
    assert said(Comparison.model_validate_json(compared.stdout), "candidate", "'acme/base-7b'")
    traced = command("trace", str(bare), *quick, "--tokenizer", str(base))
    assert traced.returncode == 0, traced.stderr
    assert Trace.model_validate_json(traced.stdout).reading.tokenizer is not None
