"""What a library raises on a caller's file becomes one clean error; what is ours or the machine's passes as it is."""

import errno
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from spinal.errors import Cancelled, TokenizerInvalid, faults

PANICS: dict[str, object] = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "pre_tokenizer": None,
    "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "post_processor": None, "decoder": None,
    "model": {"type": "BPE", "vocab": {}, "merges": []},
}  # fmt: skip


def guarded(error: BaseException) -> None:
    with faults.callers_fault(lambda why: TokenizerInvalid(f"acme: {why}")):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ImportError("needs gptqmodel"), AttributeError("x"), AssertionError(), ZeroDivisionError("by zero"),
        RecursionError("deep"), KeyError("type"), SafetensorError("header"), OSError("not a folder"),
        OSError(errno.ENOENT, "none"), RuntimeError("size mismatch"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        ExceptionGroup("many", [ValueError("one")]), KeyError("a tensor called (os error 28)"),
        ValueError("no module Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_any_exception_is_the_files_fault(error: Exception) -> None:
    with pytest.raises(TokenizerInvalid) as caught:
        guarded(error)
    assert caught.value.detail.startswith("acme: ")
    assert caught.value.__cause__ is error
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "error",
    [
        Cancelled("stop"), MemoryError(), OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "disk"),
        SafetensorError('Error while serializing: IoError(Os { code: 28, message: "No space (os error 28)" })'),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        KeyboardInterrupt(), SystemExit(1), GeneratorExit(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_is_ours_or_the_machines_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        guarded(error)
    assert caught.value is error


def test_errors_that_a_library_names_pass_where_the_caller_says_so() -> None:
    class OutOfDeviceMemory(RuntimeError):
        pass

    with (
        pytest.raises(OutOfDeviceMemory),
        faults.callers_fault(TokenizerInvalid, ours=(OutOfDeviceMemory,)),
    ):
        raise OutOfDeviceMemory("no memory")


def test_a_panic_of_rust_is_an_error_like_any_other() -> None:
    with pytest.raises(TokenizerInvalid, match="Precompiled"), faults.callers_fault(TokenizerInvalid):
        Tokenizer.from_str(json.dumps(PANICS))


def test_a_real_error_of_a_reader_is_told_without_the_path() -> None:
    with pytest.raises(TokenizerInvalid) as caught, faults.callers_fault(TokenizerInvalid):
        safe_open("/var/tmp/private-place/none.safetensors", framework="np")
    assert "private-place" not in caught.value.detail


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no file named a.bin in directory /srv/models/acme/base", "no file named a.bin in directory base"),
        ("open '/home/x/.cache/config.json'", "open 'config.json'"),
        ("see https://huggingface.co/docs/x", "see https://huggingface.co/docs/x"),
        ("local:acme/base is damaged", "local:acme/base is damaged"),
        ("\x1b[2J\x1b]0;owned\x07bad\x1b[31m tensor\x9b", "bad tensor"),
        ("Error(s):\n\n\tsize mismatch for x\n\tmissing y", "Error(s): | size mismatch for x | missing y"),
        ("name \ud800 and \0", "name \\ud800 and"),
    ],
)  # fmt: skip
def test_text_is_one_clean_line(text: str, shown: str) -> None:
    assert faults.reason(ValueError(text)) == shown


def test_long_text_keeps_its_beginning_and_its_end() -> None:
    shown = faults.reason(ValueError("begin " + "x" * 5_000 + " end"))
    assert len(shown) <= 300
    assert shown.startswith("begin ")
    assert shown.endswith(" end")


@given(st.text())
def test_no_text_breaks_a_line_or_a_terminal(text: str) -> None:
    shown = faults.reason(RuntimeError(text))
    assert shown
    assert shown.isprintable()
    assert len(shown) <= 300
