"""A caller's JSON is read within bounds, or refused in one clean line."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinal.checkpoints.opening import read_regular
from spinal.checkpoints.reading import MOST_DEPTH, Unreadable, parse_json
from spinal.errors import ConfigInvalid

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)  # fmt: skip
REFUSED = {
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "deep, never closed": b"[" * 500,
    "half a surrogate pair": b'["\\ud800"]',
    "half a pair in a name": b'{"\\uDFFF": 1}',
    "half a pair, raw": b'["\xed\xa0\x80"]',
    "NaN": b"[NaN]",
    "infinity": b"[-Infinity]",
    "a number beyond floats": b"[1e999]",
    "a number of 5,000 digits": b"9" * 5_000,
    "a fraction of 5,000 digits": b"0." + b"9" * 5_000,
    "a member twice": b'{"a": 1, "b": 2, "a": 1}',
    "another encoding": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "too many values": b"[" + b"[]," * 5_000 + b"[]]",
    "a text that never ends": b'["abc',
    "a lone backslash": b'["\\',
    "nothing": b"",
    "two documents": b"{}{}",
    "a control character": b'["\x01"]',
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_plain_json_is_refused_in_one_line(raw: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        parse_json(raw, "config.json", most_values=10_000)
    assert str(caught.value).startswith("config.json ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_string_is_held_to_the_same() -> None:
    assert parse_json('{"a": "ü"}', "x") == {"a": "ü"}
    with pytest.raises(Unreadable):
        parse_json('["\ud800"]', "x")


@given(JSON)
def test_what_any_writer_of_json_writes_is_read_back(value: Any) -> None:
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode(), "x") == value


@given(st.binary(max_size=60) | st.text('[]{}",:\\u0d8a1eE.-nNI ', max_size=60).map(str.encode))
def test_any_bytes_are_read_as_the_standard_reader_does_or_refused(raw: bytes) -> None:
    try:
        found = parse_json(raw, "x")
    except Unreadable as error:
        refused = error
    else:
        assert found == json.loads(raw)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode("utf-8")
        return
    assert str(refused).isprintable()


@given(st.integers(1, 2 * MOST_DEPTH), st.text('[]{}"\\é', max_size=200))
def test_depth_counts_brackets_outside_text_only(depth: int, text: str) -> None:
    raw = json.dumps({"text": text})
    nested = ("[" * (depth - 1) + raw + "]" * (depth - 1)).encode()
    if depth > MOST_DEPTH:
        with pytest.raises(Unreadable, match="nested deeper"):
            parse_json(nested, "x")
    else:
        parse_json(nested, "x")


def test_depth_is_carried_from_piece_to_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spinal.checkpoints.reading.PIECE", 7)
    parse_json(json.dumps({"[" * 99: ['"' * 99, "{" * 99]}), "x")
    with pytest.raises(Unreadable, match="nested deeper"):
        parse_json("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "x")


def test_infinity_is_read_where_it_is_expected_and_nan_nowhere() -> None:
    limits = parse_json(b'{"time_step_limit": [-Infinity, Infinity]}', "config.json", infinity=True)
    assert limits == {"time_step_limit": [float("-inf"), float("inf")]}
    with pytest.raises(Unreadable):
        parse_json(b"[NaN]", "config.json", infinity=True)


def read(path: Path, most_bytes: int) -> bytes:
    return read_regular(path, "local:m", ConfigInvalid, most_bytes=most_bytes)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path in (pipe, loop, tmp_path, Path("/dev/zero"), tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(ConfigInvalid, match=r"^local:m: ") as caught:
            read(path, 100)
        assert str(tmp_path) not in caught.value.detail
        assert caught.value.detail.isprintable()
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none", 100)


def test_a_file_is_read_up_to_its_bound_and_no_further(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"x" * 100)
    assert read(file, 100) == b"x" * 100
    with pytest.raises(ConfigInvalid, match=r"a.json is larger than the 99 bytes"):
        read(file, 99)
    with file.open("r+b") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(ConfigInvalid, match=r"larger than the 100 bytes"):
        read(file, 100)


def test_a_file_that_claims_no_size_is_read() -> None:
    # Of files of the kernel, and of some mounts, the size is not known before.
    assert int(read(Path("/proc/sys/kernel/pid_max"), 100)) > 0


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_a_disk_that_fails_is_not_the_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("spinal.checkpoints.opening.os.open", fails)
    with pytest.raises(OSError, match=os.strerror(number)):
        read(tmp_path / "a", 100)
