"""What tokenises is the tokenizer.json that was hashed; every id that is read has a row; few prompts are enough."""

import json
import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import spinal
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.trace import Trace
from spinal.engine.tokenizer import Tokenizer, load_tokenizer
from spinal.errors import PromptSetInvalid, TokenizerInvalid
from spinal.given import read_prompts
from spinal.prompts.sets import PromptSet

Tiny = Callable[..., Path]
Traced = Callable[..., tuple[Trace, Path]]
Edit = Callable[[dict[str, Any]], object]
WORDS = ["river", "stone", "light", "morning", "evening", "paper", "window", "garden", "winter", "summer"]
SENTENCES = [f"{a} {b} {c}" for a, b, c in zip(WORDS, WORDS[1:], WORDS[2:], strict=False)]


def made_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<unk>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator([" ".join(WORDS * 3)], trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A small llama with 2,080 rows and a tokenizer of about 300 ids that puts a BOS first."""
    made = tmp_path / "model"
    shutil.copytree(tiny("llama"), made)
    made_tokenizer().save_pretrained(made)
    return made


def edit(folder: Path, name: str, change: Edit) -> Path:
    path = folder / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    change(content)
    path.write_text(json.dumps(content))
    return folder


def opened(folder: Path) -> Tokenizer:
    return load_tokenizer(resolve_reference(str(folder), roots=None))


def add_token(content: str, index: int) -> Edit:
    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["model"]["vocab"][content] = index
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        tokenizer["added_tokens"].append({"id": index, "content": content, "special": True, **flags})

    return change


def file_ids(folder: Path, texts: list[str], *, special: bool = True) -> list[list[int]]:
    """What ``tokenizers`` itself makes of the file."""
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.no_padding()
    backend.no_truncation()
    return [backend.encode(text, add_special_tokens=special).ids for text in texts]


# ordinary checkpoints: what AutoTokenizer gives


ORDINARY: dict[str, tuple[str, dict[str, Any]]] = {
    "as saved": ("llama", {}),
    "another family": ("gemma2", {}),
    "a class that reads the file": ("llama", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    "Llama's own class": ("llama", {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True}),
    "add_bos_token that the file overrules": ("llama", {"add_bos_token": False, "add_eos_token": True}),
    "a pad token of the configuration alone": ("llama", {"pad_token": "<|extra|>"}),
    "more special tokens": ("mistral", {"extra_special_tokens": ["<|a|>", "<|b|>"]}),
    "special tokens as text": ("llama", {"split_special_tokens": True}),
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_ids_of_ordinary_checkpoints_are_those_of_auto_tokenizer(kind: str, tiny: Tiny, tmp_path: Path) -> None:
    family, members = ORDINARY[kind]
    folder = tmp_path / "model"
    shutil.copytree(tiny(family), folder)
    made_tokenizer().save_pretrained(folder)
    edit(folder, "tokenizer_config.json", lambda config: config.update(members))
    theirs, ours = AutoTokenizer.from_pretrained(folder), opened(folder)
    texts = [*SENTENCES, "<s> river <|a|>stone", "grün ☃ 123", ""]
    for special in (True, False):
        assert ours.encode(texts, special=special) == theirs(texts, add_special_tokens=special)["input_ids"]
        assert ours.differs_from_auto(texts, special=special) == 0
    assert ours.vocabulary == len(theirs)
    assert ours.remarks == ()


def test_sentencepiece_style_files_agree_on_text_and_differ_where_it_is_said(tiny: Tiny, tmp_path: Path) -> None:
    """As Llama 2 has it: the file puts the leading space in by a normalizer, transformers' class by a pre-tokenizer."""
    folder = tmp_path / "model"
    shutil.copytree(tiny("llama"), folder)
    backend = Backend(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator([" ".join(WORDS * 3)], trainers.BpeTrainer(vocab_size=400, special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.save(str(folder / "tokenizer.json"))
    members = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(members))
    found, plain = opened(folder), [*SENTENCES, "Human: Why?\n\nAssistant: é☃"]
    assert found.encode(plain, special=True) == file_ids(folder, plain)
    assert found.differs_from_auto(plain, special=True) == 0
    assert found.differs_from_auto([*plain, "river <s>stone", "  river"], special=True) == 2


def test_bundled_checkpoints_have_the_ids_of_their_file(tiny: Tiny, few: PromptSet) -> None:
    texts = [str(prompt) for prompt in few.prompts]
    assert opened(tiny("llama")).encode(texts, special=True) == file_ids(tiny("llama"), texts)


# the file that was hashed, whatever lies beside it


def test_no_other_tokenizer_file_is_read(folder: Path, traced: Traced) -> None:
    honest, _ = traced(folder, read_prompts(SENTENCES))
    other = made_tokenizer(bos=False)
    other.backend_tokenizer.save(str(folder / "tokenizer.1.0.0.json"))
    edit(folder, "tokenizer_config.json", lambda config: config.update(fast_tokenizer_files=["tokenizer.1.0.0.json"]))
    found, _ = traced(folder, read_prompts(SENTENCES))
    assert found.prompt_set.token_ids_digest == honest.prompt_set.token_ids_digest
    assert any("fast_tokenizer_files" in warning for warning in found.warnings)


def test_a_class_that_rebuilds_the_tokenizer_does_not_replace_the_file(
    tiny: Tiny, traced: Traced, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny("qwen2"), folder)
    words = {word: index for index, word in enumerate(["<unk>", "prompt", *map(str, range(10)), *WORDS])}
    backend = Backend(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(folder)
    texts = [f"prompt {n} river stone" for n in range(10)]
    assert AutoTokenizer.from_pretrained(folder)(texts)["input_ids"] != file_ids(folder, texts), "nothing is shown"
    assert opened(folder).encode(texts, special=True) == file_ids(folder, texts)
    found, _ = traced(folder, read_prompts(texts))
    assert found.prompt_set.tokens == 40
    (remark,) = [warning for warning in found.warnings if "AutoTokenizer" in warning]
    assert remark.startswith("10 of 10 prompts have other token ids")


IDLE: dict[str, Edit] = {
    "padding": lambda tokenizer: tokenizer.update(
        padding={"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 3,
                 "pad_type_id": 0, "pad_token": "<pad>"}),
    "truncation": lambda tokenizer: tokenizer.update(
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}),
    "dropout": lambda tokenizer: tokenizer["model"].update(dropout=0.9),
}  # fmt: skip


@pytest.mark.parametrize("setting", IDLE)
def test_settings_of_training_do_not_act(setting: str, folder: Path) -> None:
    expected = opened(folder).encode(SENTENCES, special=True)
    found = opened(edit(folder, "tokenizer.json", IDLE[setting]))
    assert [found.encode(SENTENCES, special=True) for _ in range(3)] == [expected] * 3
    assert any("dropout" in remark for remark in found.remarks) == (setting == "dropout")


def test_vocabulary_and_merges_alone_are_refused_with_what_to_do(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(TokenizerInvalid, match="missing") as caught:
        opened(folder)
    assert "vocab.json" in str(caught.value.hint)


BROKEN: dict[str, Edit] = {
    "an unknown model": lambda tokenizer: tokenizer["model"].update(type="Nope"),
    "no vocabulary": lambda tokenizer: tokenizer.update(model={"type": "WordLevel", "vocab": {}, "unk_token": "u"},
                                                        added_tokens=[], post_processor=None),
    "a merge of nothing": lambda tokenizer: tokenizer["model"].update(merges=[["zz", "qq"]]),
    "a panic while reading": lambda tokenizer: tokenizer.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
    "a panic in the model": lambda tokenizer: tokenizer["model"].update(continuing_subword_prefix="éé"),
    "a panic while encoding": lambda tokenizer: tokenizer.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "a template without its token": lambda tokenizer: tokenizer["post_processor"].update(special_tokens={}),
    "a pattern that is none": lambda tokenizer: tokenizer.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated", "invert": False}),
    "added tokens that are none": lambda tokenizer: tokenizer.update(added_tokens=[{"id": -1}]),
    "an unknown token without a name": lambda tokenizer: tokenizer.update(
        model={"type": "WordLevel", "vocab": {"<s>": 0}, "unk_token": "missing"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_whatever_a_tokenizer_raises_is_its_own_fault(kind: str, folder: Path, traced: Traced) -> None:
    edit(folder, "tokenizer.json", BROKEN[kind])
    with pytest.raises(TokenizerInvalid) as caught:
        traced(folder, read_prompts(SENTENCES))
    assert "\n" not in caught.value.detail
    assert str(folder.parent) not in caught.value.detail


def test_a_configuration_that_is_none_is_the_tokenizers_fault(folder: Path) -> None:
    for content in ("[]", "{", '{"added_tokens_decoder": {"x": 1}}', '{"extra_special_tokens": 5}'):
        (folder / "tokenizer_config.json").write_text(content)
        with pytest.raises(TokenizerInvalid):
            opened(folder)


# every id has a row, and every row is counted


BEYOND: dict[str, Any] = {
    "prompt": ["river stone", "garden <end> light"],
    "continuation": [{"prompt": "a b", "continuation": "c"}, {"prompt": "river", "continuation": " light <end>"}],
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", BEYOND)
def test_a_token_without_a_row_is_named_before_anything_is_run(
    where: str, stream: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder, "tokenizer.json", add_token("<end>", 5000))
    monkeypatch.setattr("spinal.engine.measure.walk", lambda _session: pytest.fail("a forward pass"))
    with pytest.raises(TokenizerInvalid, match=r"prompt 2 holds the token '<end>' \(id 5000\).* 2080 rows"):
        spinal.trace(folder, prompts=BEYOND[where], stream=stream, cache=False)


def test_ids_beyond_a_gap_are_counted(folder: Path, traced: Traced) -> None:
    edit(folder, "tokenizer.json", add_token("<end>", 1500))
    assert opened(folder).vocabulary == 1501
    answers: Any = [{"prompt": f"river stone {word}", "continuation": " light <end>"} for word in WORDS]
    trace, _ = traced(folder, read_prompts(answers))
    assert trace.nll is not None
    assert math.isfinite(trace.nll)
    assert trace.nll_source == "continuations"
    # All ids below the largest carry mass: entropy of hardly trained models is close to the logarithm of their number.
    assert trace.layers[0].positions["all"].entropy > math.log(600)


# how many prompts, and how they begin


def test_one_prompt_has_values_and_no_intervals(tiny: Tiny, traced: Traced, few: PromptSet) -> None:
    """More tokens than dimensions: alpha is determined, and there is nothing to vary."""
    long = PromptSet((" ".join(str(prompt) for prompt in few.prompts)[:2000],), (None,))
    trace, _ = traced(tiny("llama"), long, max_tokens=120)
    assert trace.prompt_set.tokens > 64
    last = trace.layers[-1].positions["all"]
    assert last.contraction is not None
    assert (last.contraction_se, last.transport_se, last.entropy_se) == (None, None, None)
    assert all(fit.alpha_se is None for fit in last.contraction_windows.values())
    assert "NaN" not in trace.model_dump_json()


@pytest.mark.parametrize("other", [0, 1])
def test_one_prompt_compares(other: int, tiny: Tiny, few: PromptSet) -> None:
    long = PromptSet((" ".join(str(prompt) for prompt in few.prompts)[:2000],), (None,))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = spinal.compare(tiny("llama"), tiny("llama", other), prompts=long, max_tokens=120, cache=False)
    assert found.scores.delta_align is not None
    assert "NaN" not in found.model_dump_json()


def test_prompts_of_one_token_are_dropped_and_counted(folder: Path, traced: Traced) -> None:
    few = [*SENTENCES, "<pad>", "<unk>"]
    trace, _ = traced(folder, read_prompts(few), add_special_tokens=False)
    whole, _ = traced(folder, read_prompts(SENTENCES), add_special_tokens=False)
    assert trace.prompt_set.count == len(SENTENCES)
    assert trace.layers == whole.layers
    assert any(w.startswith(f"2 of {len(few)} prompts were dropped, first prompt 9") for w in trace.warnings)
    with pytest.raises(PromptSetInvalid, match="no prompt has 2"):
        traced(folder, read_prompts(["<pad>", "<unk>"]), add_special_tokens=False)


def test_a_continuation_stays_with_its_prompt_when_others_are_dropped(folder: Path, traced: Traced) -> None:
    answers: Any = [{"prompt": "<pad>"}, *({"prompt": text, "continuation": " garden"} for text in SENTENCES)]
    with_short, _ = traced(folder, read_prompts(answers), add_special_tokens=False)
    without, _ = traced(folder, read_prompts(answers[1:]), add_special_tokens=False)
    assert with_short.nll == without.nll


@pytest.mark.parametrize(("texts", "times"), [([f"<s>{text}" for text in SENTENCES], 8), ([*SENTENCES, "<s>river"], 1),
                                              (SENTENCES, 0)])  # fmt: skip
def test_a_second_bos_is_remarked(texts: list[str], times: int, folder: Path, traced: Traced) -> None:
    trace, _ = traced(folder, read_prompts(texts))
    found = [warning for warning in trace.warnings if "begin with two" in warning]
    assert [remark.split(" ", 1)[0] for remark in found] == ([str(times)] if times else [])


# chats


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHATS = [[{"role": "user", "content": text}, {"role": "assistant", "content": " light"}] for text in SENTENCES]


def with_template(folder: Path, template: str, *, where: str = "chat_template.jinja") -> Path:
    if where == "tokenizer_config.json":
        return edit(folder, where, lambda config: config.update(chat_template=template))
    (folder / where).write_text(template)
    return folder


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
def test_chats_are_read_through_the_template_with_one_bos(where: str, folder: Path, traced: Traced) -> None:
    with_template(folder, TEMPLATE, where=where)
    trace, _ = traced(folder, read_prompts(CHATS))
    texts = [f"[user] {text}\n[assistant]" for text in SENTENCES]
    plain, _ = traced(folder, read_prompts(texts))  # the tokenizer puts the BOS here
    assert trace.prompt_set.token_ids_digest == plain.prompt_set.token_ids_digest
    assert trace.layers == plain.layers
    assert trace.nll_source == "continuations"
    assert not any("two" in warning for warning in trace.warnings)


def test_chats_without_a_template_are_refused(folder: Path, traced: Traced) -> None:
    with pytest.raises(PromptSetInvalid, match="no chat template"):
        traced(folder, read_prompts(CHATS))


@pytest.mark.parametrize("template", ["{{ raise_exception('roles must alternate') }}", "{% for %}", "{{ 1 / 0 }}",
                                      "{{ messages.nothing.at.all }}"])  # fmt: skip
def test_a_template_that_fails_is_named(template: str, folder: Path, traced: Traced) -> None:
    with pytest.raises(PromptSetInvalid, match="prompt 1: the chat template"):
        traced(with_template(folder, template), read_prompts(CHATS))


def test_a_template_gives_the_same_ids_on_every_day(folder: Path, traced: Traced) -> None:
    clock = with_template(folder, "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d') }} " + TEMPLATE)
    conversation = read_prompts(CHATS).prompts[0]
    assert not isinstance(conversation, str)
    assert opened(clock).render(conversation, "prompt 1").startswith("26 Jul 2024 2024-07-26 <s>[user]")
    trace, _ = traced(clock, read_prompts(CHATS))
    assert any("26 July 2024" in warning for warning in trace.warnings)


@pytest.mark.parametrize("drawn", ["{{ range(1000) | random }} ", "{{ lipsum(1, false) }} "])
def test_a_template_that_draws_at_random_draws_the_same_every_time(drawn: str, folder: Path, traced: Traced) -> None:
    drawing = with_template(folder, drawn + TEMPLATE)
    first, again = (traced(drawing, read_prompts(CHATS))[0] for _ in range(2))
    assert first.digest == again.digest
    assert first.prompt_set.token_ids_digest == again.prompt_set.token_ids_digest
    assert any("draws at random" in warning for warning in first.warnings)


def test_prompts_that_a_template_makes_one_are_counted(folder: Path, traced: Traced) -> None:
    trace, _ = traced(with_template(folder, "river stone light"), read_prompts(CHATS))
    count = trace.prompt_set.count
    assert any(f"{count - 1} of {count} prompts have the very token ids" in warning for warning in trace.warnings)


def test_what_was_left_out_of_the_source_stands_in_the_trace(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("\n\n".join(SENTENCES) + "\n")
    for _ in range(2):  # measured, then kept
        trace = spinal.trace(folder, prompts=path)
        assert trace.warnings.count("p.txt: left out 7 (7 blank)") == 1
    elsewhere = spinal.trace(folder, prompts=replace(read_prompts(SENTENCES), name="other"))
    assert not any("left out" in warning for warning in elsewhere.warnings)
