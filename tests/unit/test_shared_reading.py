"""How the sides of a comparison are read beside each other, told from files alone."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.pair import (
    lend_tokenizers,
    own_vocabulary,
    prepare_sides,
    reading_of,
    share_vocabulary,
)
from spinal.checkpoints.read_as import read_member, resolve_as
from spinal.checkpoints.resolve import resolve_reference, resolve_tokenizer
from spinal.checkpoints.tokenizer import known_ids, tokenizer_digest
from spinal.documents.names import Occasion, named_comparison, unnamed_comparison
from spinal.documents.trace import Reading, VocabularyRead, trace_digest
from spinal.errors import AdapterInvalid, ModelChanged, ModelNotFound, TokenizerInvalid, TracesNotComparable
from tests.support import fabricated
from tests.unit.test_checkpoint_checks import CONFIG, safetensors, write


def side(folder: Path, known: int, rows: int, *, tokenizer: bool = True) -> Checkpoint:
    """A checkpoint whose tokenizer knows so many ids, with so many rows."""
    leave_out = () if tokenizer else ("tokenizer.json",)
    words = {"version": "1.0", "model": {"vocab": {f"w{index}": index for index in range(known)}}}
    write(folder, config=CONFIG | {"vocab_size": rows}, tokenizer__json=words, leave_out=leave_out)
    return resolve_reference(str(folder), roots=None)


def test_the_digest_of_an_ordinary_trace_stays_what_it_was() -> None:
    plain = ("a" * 64, "b" * 64, "c" * 64, "3")
    on_record = "48c97f0d11a9a6192e8fe9af867230ae330180fa9c708c4c380e9fcf58e105aa"
    assert trace_digest(*plain) == trace_digest(*plain, Reading()) == on_record
    ways = [Reading(tokenizer="d" * 64), Reading(tokenizer="e" * 64), Reading(vocabulary=5), Reading(vocabulary=6)]
    ways.append(Reading(tokenizer="d" * 64, vocabulary=5))
    assert len({on_record, *(trace_digest(*plain, way) for way in ways)}) == 1 + len(ways)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    at_most=st.none() | st.integers(1, 9),
)
def test_all_sides_read_up_to_the_ids_that_all_know(
    tmp_path_factory: pytest.TempPathFactory, sizes: Sequence[tuple[int, int]], at_most: int | None
) -> None:
    root = tmp_path_factory.mktemp("sides")
    sides = [side(root / f"s{index}", *size) for index, size in enumerate(sizes)]
    own = [min(size) for size in sizes]
    shared = min([*own, *([] if at_most is None else [at_most])])
    prepared = share_vocabulary(sides, at_most)
    for before, after, mine in zip(sides, prepared, own, strict=True):
        assert own_vocabulary(before) == mine
        assert min(mine, after.vocabulary or mine) == shared
        assert (after.vocabulary is None) == (mine == shared)
        assert reading_of(after) == Reading(vocabulary=None if mine == shared else shared)
    assert share_vocabulary(prepared, at_most) == prepared
    assert [replaced.vocabulary for replaced in share_vocabulary(prepared[::-1], at_most)[::-1]] == [
        replaced.vocabulary for replaced in prepared
    ]


KNOWN: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "ids without gaps": ({"model": {"vocab": {"a": 0, "b": 1}}}, {}, 2),
    "ids with gaps": ({"model": {"vocab": {"a": 0, "b": 7}}}, {}, 8),
    "pieces in the order of ids": (
        {"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0], ["c", 0]]}},
        {},
        3,
    ),
    "added tokens": ({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 4, "content": "<x>"}]}, {}, 5),
    "no list of them": ({"model": {"vocab": {"a": 0}}, "added_tokens": None}, {}, 1),
    "tokens that the settings add": (
        {"model": {"vocab": {"a": 0}}},
        {"added_tokens_decoder": {"9": {"content": "<x>"}}},
        10,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_ids_are_known_by_the_largest_and_not_by_their_number(tmp_path: Path, name: str) -> None:
    tokenizer, beside, known = KNOWN[name]
    write(tmp_path / "m", tokenizer__json=tokenizer, tokenizer_config__json=beside)
    assert known_ids(resolve_reference(str(tmp_path / "m"), roots=None)) == known


UNKNOWN: dict[str, dict[str, Any]] = {
    "no vocabulary": {"model": {}},
    "an empty one": {"model": {"vocab": {}}},
    "ids that are none": {"model": {"vocab": {"a": "b"}}},
    "a vocabulary that is a number": {"model": {"vocab": 7}},
    "added tokens without ids": {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "<x>"}]},
    "added tokens that are none": {"model": {"vocab": {"a": 0}}, "added_tokens": 3},
    "negative ids": {"model": {"vocab": {"a": -4}}},
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_tokenizer_that_does_not_say_its_ids_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "m", tokenizer__json=UNKNOWN[name])
    with pytest.raises(TokenizerInvalid, match="do not say which ids"):
        prepare_sides([resolve_reference(str(tmp_path / "m"), roots=None)])


def test_the_first_side_that_has_a_tokenizer_lends_it(tmp_path: Path) -> None:
    bare, one, two = (side(tmp_path / f"{n}", 3, 7, tokenizer=n > 0) for n in range(3))
    lent = lend_tokenizers([bare, one, two])
    assert [found.lender.source if found.lender else None for found in lent] == ["local:1", None, None]
    assert lent[0].lender is not None
    assert lent[0].lender.files.names == ("tokenizer.json",), "nothing else of the folder is read"
    assert reading_of(lent[0]) == Reading(tokenizer=tokenizer_digest(one))
    assert any("holds none" in remark for remark in lent[0].remarks)
    with pytest.raises(TokenizerInvalid, match=r"none of local:0, local:0"):
        lend_tokenizers([bare, bare])


def test_a_tokenizer_that_is_named_reads_for_all_but_those_that_have_the_same(tmp_path: Path) -> None:
    one, same, other = side(tmp_path / "one", 3, 7), side(tmp_path / "same", 3, 7), side(tmp_path / "other", 4, 7)
    lent = lend_tokenizers([one, same, other], resolve_tokenizer(str(tmp_path / "one"), roots=None))
    assert [found.lender is None for found in lent] == [True, True, False]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerInvalid, match="local:empty"):
        resolve_tokenizer(str(tmp_path / "empty"), roots=None)
    with pytest.raises(ModelNotFound):
        resolve_tokenizer(str(tmp_path / "nowhere"), roots=None)


def test_no_sides_are_read_in_no_way() -> None:
    assert prepare_sides([]) == []


# adapters


def based(folder: Path, named: str, shapes: dict[str, tuple[int, int]]) -> Path:
    """An adapter with low-rank pairs for products of these shapes (rows, columns)."""
    tensors = {}
    for module, (rows, columns) in shapes.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = np.ones((2, columns), np.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = np.ones((rows, 2), np.float32)
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(save(tensors))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named, "peft_type": "LORA"}))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    matrices = {"model.layers.0.q.weight": np.ones((4, 6), np.float32), "lm_head.weight": np.ones((7, 4), np.float32)}
    return resolve_reference(str(write(tmp_path / "base", model__safetensors=safetensors(matrices))), roots=None)


FITS = {
    "by its name": {"model.layers.0.q": (4, 6)},
    "saved without its head": {"layers.0.q": (4, 6)},
    "stored the other way round": {"transformer.layers.0.q": (6, 4)},
    "the head": {"lm_head": (7, 4)},
    "no pairs": {},
    "modules that the loader makes": {"model.layers.0.q": (4, 6), "model.layers.0.fused": (9, 9)},
}


@pytest.mark.parametrize("name", FITS)
def test_an_adapter_that_fits_is_measured_on_what_is_given(tmp_path: Path, base: Checkpoint, name: str) -> None:
    folder = based(tmp_path / "lora", "acme/base-7b", FITS[name])
    for given, instead in ((base, None), (None, base)):
        found = resolve_reference(str(folder), roots=None, base=given, instead=instead)
        assert found.base == base
        assert any("'acme/base-7b'" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"model.layers.0.q": (4, 8)}, "q is 4 x 6, that of the adapter 4 x 8"),
        ({"model.layers.1.q": (4, 6)}, "has no model.layers.1.q"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    tmp_path: Path, base: Checkpoint, shapes: dict[str, tuple[int, int]], says: str
) -> None:
    folder = based(tmp_path / "lora", "acme/base-7b", shapes)
    for given, instead in ((base, None), (None, base)):
        with pytest.raises(AdapterInvalid, match=says):
            resolve_reference(str(folder), roots=None, base=given, instead=instead)


def test_a_base_that_is_found_is_not_replaced(tmp_path: Path, base: Checkpoint) -> None:
    folder = based(tmp_path / "lora", "../base", {"model.layers.0.q": (4, 6)})
    other = side(tmp_path / "other", 3, 7)
    found = resolve_reference(str(folder), roots=None, instead=other)
    assert (found.base, found.base_named) == (base, None)
    assert read_member(found) == {}


# as JSON


def test_a_worker_reads_as_the_submission_said(tmp_path: Path, base: Checkpoint) -> None:
    roots = [tmp_path]
    based(tmp_path / "lora", "acme/base-7b", {"model.layers.0.q": (4, 6)})
    bare = side(tmp_path / "bare", 3, 7, tokenizer=False)
    more = side(tmp_path / "more", 5, 7)
    at_root = {found.source: resolve_reference(found.source, roots=roots) for found in (base, bare, more)}
    lora = resolve_reference("local:lora", roots=roots, instead=at_root["local:base"])
    prepared = share_vocabulary(lend_tokenizers([at_root["local:base"], at_root["local:bare"], more, lora]))
    said = [json.loads(json.dumps(read_member(one))) for one in prepared]
    assert [sorted(one) for one in said] == [[], ["tokenizer"], ["vocabulary"], ["base"]]
    for one, read in zip(prepared, said, strict=True):
        again = resolve_as(one.source, read, roots=roots)
        assert reading_of(again) == reading_of(one)
        assert (again.base is None) == (one.base is None)
        assert read_member(again) == read
    (tmp_path / "base" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"b": 0}}}))
    with pytest.raises(ModelChanged, match="tokenizer of local:base"):
        resolve_as("local:bare", said[1], roots=roots)


# what a comparison says

NEXT_TO_NOTHING = VocabularyRead(ids=2048, outside=1e-9)


def test_a_comparison_says_how_far_both_sides_are_read_and_what_lies_beyond() -> None:
    pair = fabricated.changed_pair()
    narrow = pair.reference.model_copy(
        update={"vocabulary": VocabularyRead(ids=2048, outside=0.0), "warnings": ("a remark",)}
    )
    model = pair.candidate.model.model_copy(update={"vocab_size": 2112})
    beyond = VocabularyRead(ids=2048, outside=0.25)
    wide = pair.candidate.model_copy(
        update={"vocabulary": beyond, "model": model, "warnings": (beyond.remark(2112), "a remark", "policy last: few")}
    )
    found = replace(pair, reference=narrow, candidate=wide).compare()
    [said] = [warning for warning in found.warnings if warning.startswith("ids 0..2047 are read")]
    assert "2048 (reference), 2112 (candidate)" in said
    assert "0.25 of the probability of the candidate's own output" in said
    assert [warning for warning in found.warnings if "remark" in warning] == ["reference and candidate: a remark"]
    # Of equal rows, and with next to nothing beyond, there is nothing to say.
    same = replace(pair, reference=narrow, candidate=pair.candidate.model_copy(update={"vocabulary": NEXT_TO_NOTHING}))
    assert not any(warning.startswith("ids 0..") for warning in same.compare().warnings)


def test_traces_that_are_read_up_to_different_ids_are_not_compared() -> None:
    pair = fabricated.changed_pair()
    sides = [
        trace.model_copy(update={"vocabulary": VocabularyRead(ids=ids, outside=0.0)})
        for trace, ids in ((pair.reference, 2048), (pair.candidate, 2047))
    ]
    with pytest.raises(TracesNotComparable, match="number of ids read differs: 2048 against 2047"):
        replace(pair, reference=sides[0], candidate=sides[1]).compare()
    # A trace of the release before does not say.
    replace(pair, reference=sides[0]).compare()


def test_a_reader_finds_the_remarks_on_the_own_files_in_a_shared_comparison() -> None:
    shared = unnamed_comparison(fabricated.changed_pair().compare())
    mine = named_comparison(
        shared, sources={}, occasion=Occasion(), remarks={"candidate": ["x", "y"], "reference": ["y"]}
    )
    assert mine.warnings == (*shared.warnings, "candidate: x", "candidate and reference: y")
