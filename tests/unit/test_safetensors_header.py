"""A safetensors file is believed when its header describes every byte once, and not otherwise."""

import json
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from spinal.checkpoints import tensors
from spinal.checkpoints.tensors import read_header, scan_non_finite
from spinal.errors import NonFiniteWeights, WeightsCorrupt

Header = dict[str, Any]


def tensor(start: int, stop: int, *shape: object, dtype: str = "F32") -> Header:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def write(path: Path, header: object, data: int | bytes = 0, *, length: int | None = None) -> Path:
    """A file with this header (or these raw bytes in its place) and so many bytes of data."""
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = bytes(data) if isinstance(data, int) else data
    path.write_bytes((len(packed) if length is None else length).to_bytes(8, "little") + packed + body)
    return path


SOUND: dict[str, tuple[Header, int]] = {
    "nothing": ({}, 0),
    "two in order": ({"a": tensor(0, 8, 2), "b": tensor(8, 20, 3, 1)}, 20),
    "two named in another order": ({"b": tensor(8, 20, 3), "a": tensor(0, 8, 2)}, 20),
    "a scalar": ({"a": tensor(0, 4)}, 4),
    "one without elements": ({"a": tensor(0, 0, 0, 5), "b": tensor(0, 4, 1)}, 4),
    "metadata": ({"__metadata__": {"format": "pt"}, "a": tensor(0, 4, 1)}, 4),
    "a kind of number that came later": ({"a": tensor(0, 3, 7, dtype="F4_X")}, 3),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_header_is_returned_without_its_metadata(tmp_path: Path, name: str) -> None:
    header, size = SOUND[name]
    found = read_header(write(tmp_path / "w.safetensors", header, size), "local:m")
    assert found == {key: value for key, value in header.items() if key != "__metadata__"}


@pytest.mark.parametrize(("dtype", "size"), sorted(tensors.ITEM_BYTES.items()))
def test_every_kind_of_number_has_its_size(tmp_path: Path, dtype: str, size: int) -> None:
    bits = {"F64": 64, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "BOOL": 8}.get(dtype) or int(dtype[1:])
    assert size * 8 == bits
    read_header(write(tmp_path / "w", {"a": tensor(0, 3 * size, 3, dtype=dtype)}, 3 * size), "local:m")
    with pytest.raises(WeightsCorrupt, match="size of a"):
        read_header(write(tmp_path / "w", {"a": tensor(0, 3 * size, 2, dtype=dtype)}, 3 * size), "local:m")


DAMAGED: dict[str, tuple[object, int, str]] = {
    "no JSON": (b"{", 0, "header of .* is damaged"),
    "no text": (b"\xff\xfe", 0, "header of .* is damaged"),
    "a list": ([], 0, "header of .* is damaged"),
    "a number": (7, 0, "header of .* is damaged"),
    "a tensor that is a number": ({"a": 7}, 0, "header of .* is damaged"),
    "a tensor without a shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, 4, "'shape'"),
    "a tensor without a dtype": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4, "'dtype'"),
    "a tensor without offsets": ({"a": {"dtype": "F32", "shape": [1]}}, 4, "'data_offsets'"),
    "one offset": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, 4, "header of .* is damaged"),
    "three offsets": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, 4, "header of .* is damaged"),
    "an offset that is no number": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "x"]}}, 4, "damaged"),
    "an extent below zero": ({"a": tensor(0, 4, -1)}, 4, "shape of a"),
    "an extent that is no integer": ({"a": tensor(0, 4, 1.0)}, 4, "shape of a"),
    "a shape that is no list": ({"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}, 4, "damaged"),
    "fewer bytes than the shape asks for": ({"a": tensor(0, 4, 2)}, 4, "size of a"),
    "a gap at the start": ({"a": tensor(4, 8, 1)}, 8, "tensor a overlaps or leaves a gap"),
    "a gap between two": ({"a": tensor(0, 4, 1), "b": tensor(8, 12, 1)}, 12, "tensor b overlaps or leaves a gap"),
    "an overlap": ({"a": tensor(0, 8, 2), "b": tensor(4, 12, 2)}, 12, "tensor b overlaps or leaves a gap"),
    "an end before its start": (
        {"a": tensor(0, 8, 8, dtype="F4_X"), "b": tensor(8, 4, 1, dtype="F4_X")}, 8, "tensor b overlaps",
    ),
    "bytes that nobody describes": ({"a": tensor(0, 4, 1)}, 5, "its header promises"),
    "bytes that are missing": ({"a": tensor(0, 4, 1)}, 3, "its header promises"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_header_with_one_thing_wrong_is_refused_for_that(tmp_path: Path, name: str) -> None:
    header, size, said = DAMAGED[name]
    with pytest.raises(WeightsCorrupt, match=said):
        read_header(write(tmp_path / "w.safetensors", header, size), "local:m")


def test_the_promise_is_said_to_the_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "w", {"a": tensor(0, 4, 1)}, 6)
    size = path.stat().st_size
    with pytest.raises(WeightsCorrupt, match=f"has {size} bytes, its header promises {size - 2}$"):
        read_header(path, "local:m")


@pytest.mark.parametrize("size", range(8))
def test_a_file_that_is_shorter_than_its_length_field_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "w").write_bytes(bytes(size))
    with pytest.raises(WeightsCorrupt, match="ends inside its header"):
        read_header(tmp_path / "w", "local:m")


def test_a_header_that_goes_on_beyond_the_file_is_refused_unread(tmp_path: Path) -> None:
    read_header(write(tmp_path / "fits", b"{}"), "local:m")
    with pytest.raises(WeightsCorrupt, match="ends inside its header"):
        read_header(write(tmp_path / "longer", b"{}", length=3), "local:m")


def test_a_header_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "w", b"{}")
    monkeypatch.setattr(tensors, "MOST_HEADER", 2)
    read_header(path, "local:m")
    monkeypatch.setattr(tensors, "MOST_HEADER", 1)
    with pytest.raises(WeightsCorrupt, match="larger than 1 bytes"):
        read_header(path, "local:m")


def described(member: str, value: object) -> Header:
    return {"a": tensor(0, 4, 1) | {member: value}}


TOO_MUCH: dict[str, object] = {
    "600 dimensions of 4,200 digits": described("shape", [int("9" * 90)] * 600),
    "numbers of 4,200 digits": json.dumps(described("shape", [12345])).replace("12345", "9" * 4200).encode(),
    "17 dimensions": described("shape", [1] * 17),
    "an extent that no file has": described("shape", [1 << 63]),
    "an offset that no file has": described("data_offsets", [0, 1 << 63]),
    "offsets with a fraction": described("data_offsets", [0.0, 4.0]),
    "offsets below zero": described("data_offsets", [-4, 0]),
    "offsets that are truth values": {"a": {"dtype": "U8", "shape": [1], "data_offsets": [False, True]}},
    "an infinite offset": b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}',
    "offsets as text": described("data_offsets", "04"),
    "offsets as an object": described("data_offsets", {"0": 0, "1": 4}),
    "a shape of truth values": described("shape", [True]),
    "a dtype that is a list": described("dtype", []),
    "a tensor that is null": {"a": None},
    "a name of 10,000 characters": {"x" * 10_000: tensor(0, 4, 1)},
    "a tensor twice": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],'
    b'"data_offsets":[0,4]}}',
    "half a surrogate pair": b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    "100,000 brackets": b"[" * 100_000,
    "metadata that is a list": {"__metadata__": [1], "a": tensor(0, 4, 1)},
    "metadata of numbers": {"__metadata__": {"a": 1}, "a": tensor(0, 4, 1)},
    "null": None,
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_header_with_more_than_a_model_has_is_refused_in_one_short_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsCorrupt, match=r"^local:m: header of w.safetensors is damaged \(") as caught:
        read_header(write(tmp_path / "w.safetensors", TOO_MUCH[name], 4), "local:m")
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 300


def test_a_header_of_a_million_tensors_is_refused_before_it_is_built(tmp_path: Path) -> None:
    entry = b'"%07d":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},'
    million = b"{" + b"".join(entry % number for number in range(1_000_000))[:-1] + b"}"
    with pytest.raises(WeightsCorrupt, match="larger than"):
        read_header(write(tmp_path / "w", million), "local:m")
    part = million[: 700_000 * len(entry % 0) - 1] + b"}"
    assert len(part) + 1 < tensors.MOST_HEADER
    tracemalloc.start()
    try:
        with pytest.raises(WeightsCorrupt, match="more than"):
            read_header(write(tmp_path / "w", part), "local:m")
        # Twice the header: its bytes and its text. As dictionaries it would be ten times that.
        assert tracemalloc.get_traced_memory()[1] < 3 * len(part)
    finally:
        tracemalloc.stop()


def test_a_header_of_as_many_tensors_as_there_may_be_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MOST_TENSORS", 2_000)
    header = {f"layers.{n}.experts.weight_scale_inv": tensor(4 * n, 4 * n + 4, 1, 1, 1, 1, 1) for n in range(2_000)}
    assert len(read_header(write(tmp_path / "w", header, 8_000), "local:m")) == 2_000
    header["one.more"] = tensor(8_000, 8_004, 1)
    with pytest.raises(WeightsCorrupt, match="more than 2,000 tensors"):
        read_header(write(tmp_path / "w", header, 8_004), "local:m")


@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing", "device"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
    with pytest.raises(WeightsCorrupt):
        read_header(path, "local:m")
    with pytest.raises(WeightsCorrupt):
        scan_non_finite(path, {"a": tensor(0, 4, 1)}, "local:m")


def test_a_file_that_was_cut_since_its_header_was_read_is_refused(tmp_path: Path) -> None:
    header = {"a": tensor(0, 4, 1)}
    with pytest.raises(WeightsCorrupt, match="ends early"):
        scan_non_finite(write(tmp_path / "w", header, 3), header, "local:m")


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.fixed_dictionaries(
            {},
            optional={
                "dtype": st.sampled_from(["F32", "I8", "BOOL", 7, None]),
                "shape": st.lists(st.integers(-1, 3) | st.floats() | st.booleans(), max_size=3) | st.none(),
                "data_offsets": st.lists(st.integers(-1, 20) | st.just(10**90), max_size=3) | st.text(max_size=2),
            },
        )
        | st.integers(),
        max_size=3,
    ),
    st.integers(0, 20),
)
def test_any_header_is_read_as_safetensors_reads_it_or_refused(header: Header, size: int) -> None:
    raw = json.dumps(header).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "w", raw, size)
        try:
            found = read_header(path, "local:m")
        except WeightsCorrupt:
            return
        with safe_open(path, framework="np") as theirs:
            assert set(theirs.keys()) == set(found)


def words(kind: str, *values: int) -> bytes:
    return np.array(values, dtype={"F32": np.uint32}.get(kind, np.uint16)).tobytes()


LARGEST = {"F32": 0x7F7FFFFF, "F16": 0x7BFF, "BF16": 0x7F7F}
INFINITE = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
SIGN = {"F32": 0x80000000, "F16": 0x8000, "BF16": 0x8000}


@pytest.mark.parametrize("kind", LARGEST)
@pytest.mark.parametrize("place", [0, 1, 2, 5])
def test_what_is_not_finite_is_found_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, place: int
) -> None:
    size = 4 if kind == "F32" else 2
    # Two words at a time, so that six need three readings.
    monkeypatch.setattr(tensors, "CHUNK", 2 * size)
    header = {"first": tensor(0, 4, 4, dtype="I8"), "second": tensor(4, 4 + 6 * size, 6, dtype=kind)}
    for bad in (INFINITE[kind], INFINITE[kind] | SIGN[kind], INFINITE[kind] | 1):
        content = [LARGEST[kind]] * 6
        sound = write(tmp_path / "w", header, b"\xff" * 4 + words(kind, *content))
        scan_non_finite(sound, read_header(sound, "local:m"), "local:m")
        content[place] = bad
        broken = write(tmp_path / "w", header, b"\xff" * 4 + words(kind, *content))
        with pytest.raises(NonFiniteWeights, match="tensor second in w holds NaN or infinity"):
            scan_non_finite(broken, read_header(broken, "local:m"), "local:m")


def test_a_tensor_is_looked_at_up_to_its_end(tmp_path: Path) -> None:
    header = {"a": tensor(0, 4, 1), "b": tensor(4, 8, 1), "c": tensor(8, 16, 8, dtype="I8")}
    path = write(tmp_path / "w", header, words("F32", *[LARGEST["F32"]] * 2) + b"\xff" * 8)
    scan_non_finite(path, read_header(path, "local:m"), "local:m")


def test_the_first_tensor_that_is_not_finite_is_named(tmp_path: Path) -> None:
    header = {"b": tensor(4, 8, 1), "a": tensor(0, 4, 1)}
    path = write(tmp_path / "w", header, words("F32", LARGEST["F32"], INFINITE["F32"]))
    with pytest.raises(NonFiniteWeights, match="tensor b"):
        scan_non_finite(path, header, "local:m")
