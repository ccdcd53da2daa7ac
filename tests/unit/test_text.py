"""Text from elsewhere: whatever is in it, a reader sees it, a terminal obeys none of it, and no place is named."""

import json
import socket
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinal.errors import SpinalError, all_errors
from spinal.text import readable, visible, visible_json, without_places

ANY_TEXT = st.text(st.characters(codec=None))
UNSEEN = [char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char) in ("Cc", "Cf", "Cs")]


def test_every_control_character_format_character_and_surrogate_is_written_out() -> None:
    assert len(UNSEEN) > 2000
    for char in (*UNSEEN, "\u2028", "\u2029"):
        shown = visible(f"a{char}b")
        assert shown.isascii(), hex(ord(char))
        assert shown.isprintable()
        assert f"{ord(char):x}" in shown or char in "\t\n\r"


@given(ANY_TEXT)
def test_what_is_visible_stays_as_it_is(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


@given(
    st.recursive(ANY_TEXT | st.integers() | st.none(), lambda some: st.lists(some) | st.dictionaries(ANY_TEXT, some))
)
def test_visible_json_says_the_same(value: object) -> None:
    for text in (json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, indent=2)):
        shown = visible_json(text)
        assert shown.replace("\n", "").isprintable()
        assert json.loads(shown) == json.loads(text)


@given(ANY_TEXT)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert readable(readable(text)) == readable(text)


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ("no file named x in directory /srv/models/acme/sft.", "no file named x in directory sft."),
        ("[Errno 2] No such file: '/tmp/my models/a b.json'", "[Errno 2] No such file: 'a b.json'"),
        ('"/home/it\'s/x" and `/var/lib/y`', '"x" and `y`'),
        ("PosixPath('/data/x'), b'/opt/y'", "PosixPath('x'), b'y'"),
        ("file:///tmp/a/b and at=/usr/lib//c/", "b and at=c"),
        ("(/home/a,/mnt/b) [/proc/self/fd/7] </etc>", "(b) [7] <etc>"),
        ("OSError:/tmp/a/b", "OSError:b"),
        ("/work of /etc", "work of etc"),
        ("/srv/a[1]/it's{x}/b:c,d;e/f", "f"),
        ("/tmp:/home/a", "a"),
        ("/tmp/a\nb/c", "c"),
        ("/tmp/\u202ea/\x1b[31mc", "\\x1b[31mc"),
    ],
)  # fmt: skip
def test_paths_lose_all_but_their_last_part(told: str, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spinal.text.os.listdir", lambda _: ["work"])
    assert readable(told) == left


@pytest.mark.parametrize(
    "told",
    [
        "/profile/max_tokens: too small", "no route /v1/nothing", "the contract is at /openapi.json", "local:/etc",
        "POST it to /v1/prompt-sets first", "local:team/tmp/x", "1/2 of 3/4", "https://huggingface.co/docs/home/x",
        "GET /v1/audits/0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b/scores", "and/or", "query/cursor: not a cursor", "/", "//",
    ],
)  # fmt: skip
def test_what_is_no_place_of_this_machine_stays(told: str) -> None:
    assert readable(told) == told


@pytest.mark.parametrize(
    ("host", "told", "left"),
    [
        ("gpu-7.internal", "gpu-7.internal lost; gpu-7 is away, gpu-77 not", "a host lost; a host is away, gpu-77 not"),
        ("4f2a9c81d0be", "connection to 4f2a9c81d0be:5432 failed", "connection to a host:5432 failed"),
        ("model", "the model at root@model and model:22", "the model at root@a host and a host:22"),
        ("vm", "vmlinux on //vm/share", "vmlinux on //a host/share"),
        ("x", "worker h/0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b fell silent", "a worker fell silent"),
    ],
)
def test_hosts_are_not_named(host: str, told: str, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert without_places(told) == left


@pytest.mark.parametrize("error", all_errors().values())
def test_no_problem_holds_anything_unseen_or_any_place(error: type[SpinalError]) -> None:
    hostile = "\x1b[2J\x9b\u202e\0\ud800 /tmp/secret/last"
    problem = error(
        hostile, hint=hostile, at=hostile, **{hostile: [{hostile: (hostile, float("nan"), {1})}]}
    ).to_problem()
    text = json.dumps(problem, ensure_ascii=False, allow_nan=False)
    assert text.isprintable()
    assert "secret" not in text
    assert text.count("last") == 6


def test_at_this_machine_paths_stay_whole() -> None:
    assert SpinalError("\x1b /tmp/mine/x").to_problem(here=True)["detail"] == "\\x1b /tmp/mine/x"
