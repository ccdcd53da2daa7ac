"""A hub that lies, floods or stalls: it is told apart in bounded time and memory, and nothing of it is printed raw."""

import itertools
import json
import socket
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from spinal.checkpoints.sources.base import Timeouts
from spinal.errors import ModelNotFound, SpinalError
from spinal.errors.sources import SourceRefused, SourceUnavailable
from tests.support.hub import Fault, Hub
from tests.unit.sources.hubs import NAME, SFT, TOKEN, content, source_for

SHA = "a" * 40
INFO, TREE, HEAD = "hub GET */revision/*", "hub GET */tree/*", "hub HEAD *"
FILE = {"type": "file", "oid": "b" * 40, "size": 2, "path": "config.json"}
LFS = {"oid": "c" * 64, "size": 2, "pointerSize": 130}
NO_LFS: tuple[Any, ...] = (7, [], {}, {**LFS, "oid": "c" * 63}, {**LFS, "oid": None}, {**LFS, "size": 3})
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as started:
        started.add(NAME, SFT)
        started.tokens[TOKEN] = ("*",)
        yield started


def says(on: str, told: object, **headers: str) -> Fault:
    return Fault(on, status=200, headers={**JSON, **headers}, body=json.dumps(told).encode())


def refused(hub: Hub, fault: Fault, timeouts: Timeouts | None = None) -> SpinalError:
    """How a pin of a hub with this fault ends: in one printable line, without its token."""
    hub.inject(fault)
    with pytest.raises(SpinalError) as ended:
        source_for(hub, token=TOKEN, **({} if timeouts is None else {"timeouts": timeouts})).pin(NAME)
    assert fault.hits
    assert ended.value.detail.isprintable()
    assert len(ended.value.detail) < 600
    assert TOKEN not in str(ended.value.to_problem())
    return ended.value


@pytest.mark.parametrize(
    "told",
    [
        [],
        "x",
        None,
        {},
        {"id": NAME},
        {"sha": SHA},
        *({"id": NAME, "sha": sha} for sha in ("a" * 39, "a" * 41, "A" * 40, "g" * 40, SHA + "\n", 7, None, [SHA])),
        *({"id": name, "sha": SHA} for name in ("../x", "a/b/c", "a b", "acme/\x1b[2K", 7, None, "a" * 5000)),
    ],
)
def test_a_commit_or_a_name_that_is_none_is_no_answer(hub: Hub, told: object) -> None:
    assert isinstance(refused(hub, says(INFO, told)), SourceUnavailable)
    assert len(hub.requests()) == 1


def test_another_commit_than_the_one_that_was_named_is_no_answer(hub: Hub) -> None:
    hub.inject(says(INFO, {"id": NAME, "sha": SHA}))
    with pytest.raises(SourceUnavailable, match="another commit"):
        source_for(hub).pin(f"{NAME}@{hub.repositories[NAME].refs['main']}")


NO_JSON = {
    "html": b"<html>log in</html>",
    "nothing": b"",
    "a half": b"{",
    "too deep": b"[" * 100_000,
    "no UTF-8": b"\xff\xfe",
    "no number": b'{"a": NaN}',
    "a member twice": b'{"sha": 1, "sha": 2}',
    "escapes": b"\x1b[2J",
    "too many values": b"[" + b"1," * 1_000_000 + b"1]",
}


@pytest.mark.parametrize("on", [INFO, TREE])
@pytest.mark.parametrize("body", NO_JSON)
def test_what_is_no_json_is_no_answer(hub: Hub, on: str, body: str) -> None:
    assert isinstance(refused(hub, Fault(on, status=200, headers=JSON, body=NO_JSON[body])), SourceUnavailable)


@pytest.mark.parametrize(
    "entry",
    [
        7,
        None,
        [],
        {},
        {"type": "file"},
        {**FILE, "type": 7},
        {**FILE, "path": None},
        *({**FILE, "size": size} for size in (-1, "2", 2.0, True, None, 2**60, 10**90)),
        *({**FILE, "oid": oid} for oid in ("b" * 39, "B" * 40, None, 7)),
        *({**FILE, "lfs": lfs} for lfs in NO_LFS),
    ],
)
def test_an_entry_that_is_none_spoils_the_list(hub: Hub, entry: object) -> None:
    assert isinstance(refused(hub, says(TREE, [FILE, entry])), SourceUnavailable)
    assert hub.requests(HEAD) == []


@pytest.mark.parametrize(
    "told", [{"a": 1}, "x", 7, None, [FILE, FILE], [FILE, {**FILE, "lfs": LFS}]]
)  # fmt: skip
def test_a_list_that_is_none_or_names_a_file_twice_is_no_answer(hub: Hub, told: object) -> None:
    assert isinstance(refused(hub, says(TREE, told)), SourceUnavailable)


@pytest.mark.parametrize(
    "name",
    ["../x", "..", ".", "", "/etc/passwd", "a/b", "a/../config.json", "a\0b", "a\nb", "\x1b[2J", ".hidden", "ä",
     "x" * 201, "a\\b", "C:x", "\u202e", "\ud800"],
)  # fmt: skip
def test_files_outside_the_folder_are_no_part_of_the_checkpoint(hub: Hub, name: str) -> None:
    small = hub.repositories[NAME].at("main")
    assert small is not None
    real = next(entry for entry in small.folder("", recursive=False) if entry["path"] == "config.json")
    if name == "\ud800":
        assert isinstance(refused(hub, says(TREE, [real, {**FILE, "path": name}])), SourceUnavailable)
        return
    hub.inject(says(TREE, [real, {**FILE, "path": name}, {**FILE, "type": "symlink", "path": "link"}]))
    assert [file.name for file in source_for(hub).pin(NAME).files or ()] == ["config.json"]


def pages(each: list[Any], hub: Hub, sha: str) -> Fault:
    """The same page for ever; each says that there is another."""
    following = f'<{hub.url}/api/models/{NAME}/tree/{sha}?cursor=x>; rel="next"'
    return says(TREE, each, Link=following)


@pytest.mark.parametrize("entries", [0, 1, 1000])
def test_a_list_without_end_ends(hub: Hub, entries: int) -> None:
    page = [{**FILE, "path": f"f{number}"} for number in range(entries)]
    error = refused(hub, pages(page, hub, hub.repositories[NAME].refs["main"]))
    assert isinstance(error, ModelNotFound)
    assert len(hub.requests(TREE)) == (21 if entries == 1000 else 64)


def test_a_million_entries_are_not_held(hub: Hub) -> None:
    entry = json.dumps({**FILE, "path": "x"}).encode()
    body = b"[" + b",".join([entry] * 1_000_000) + b"]"
    tracemalloc.start()
    error = refused(hub, Fault(TREE, status=200, headers=JSON, body=lambda: iter([body])))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(error, SourceUnavailable)
    assert most < 200 * 2**20


@pytest.mark.parametrize("on", [INFO, TREE])
def test_an_answer_of_a_gigabyte_is_not_read(hub: Hub, on: str) -> None:
    piece = b" " * 2**20
    error = refused(hub, Fault(on, status=200, body=lambda: itertools.repeat(piece, 1024)))
    assert isinstance(error, SourceUnavailable)
    assert hub.sent() < 64 * 2**20


def test_pages_share_their_bytes(hub: Hub) -> None:
    page = [{**FILE, "path": "x" * 200_000}]
    error = refused(hub, pages([*page * 25], hub, hub.repositories[NAME].refs["main"]))
    assert isinstance(error, SourceUnavailable)
    assert len(hub.requests(TREE)) == 7


@pytest.mark.parametrize("on", [INFO, TREE])
@pytest.mark.parametrize("fault", ["drip", "stall", "silence", "cut"])
def test_a_hub_that_drips_or_stalls_is_left_in_time(hub: Hub, on: str, fault: str) -> None:
    faults = {
        "drip": Fault(on, bytes_per_s=10),
        "stall": Fault(on, stall_after=10),
        "silence": Fault(on, stall_after=0),
        "cut": Fault(on, cut_after=10),
    }
    begun = time.monotonic()
    error = refused(hub, faults[fault], Timeouts(connect=1.0, read=0.3, pin=0.6))
    assert isinstance(error, SourceUnavailable)
    assert time.monotonic() - begun < 2.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Another server of this host, which nobody is to reach."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        yield listening
        with pytest.raises(TimeoutError):
            listening.accept()


def places(listener: socket.socket) -> list[str]:
    port = listener.getsockname()[1]
    return [
        f"http://127.0.0.1:{port}/x", f"//127.0.0.1:{port}/x", f"https://localhost:{port}/x", f"http://2130706433:{port}/",
        f"http://a@127.0.0.1:{port}/", "https://example.org/x", "http://169.254.169.254/latest", "file:///etc/passwd",
        "http://[::1", "http://127.0.0.1:0/",
    ]  # fmt: skip


def test_a_list_does_not_go_on_elsewhere(hub: Hub, listener: socket.socket) -> None:
    sha = hub.repositories[NAME].refs["main"]
    others = [f"{hub.url}/api/models/other/x/tree/{sha}", f"{hub.url}/api/models/{NAME}/tree/main", "/api/whoami",
              f"{hub.cdn_url}/api/models/{NAME}/tree/{sha}", f"../../tuned2/tree/{sha}"]  # fmt: skip
    for place in [*places(listener), *others]:
        hub.heal()
        hub.forget()
        error = refused(hub, says(TREE, [FILE], Link=f'<{place}>; rel="next"'))
        assert isinstance(error, SourceRefused)
        assert len(hub.requests()) == 2


def test_a_question_is_not_sent_elsewhere(hub: Hub, listener: socket.socket) -> None:
    others = ["/api/models/acme/other/revision/v2", "/api/datasets/acme/tuned/revision/main", "/login",
              f"{hub.cdn_url}/x", "/api/models/acme/../revision/main", "/api/models/a/b/c/revision/main",
              "/api/models//revision/main"]  # fmt: skip
    for place in [*places(listener), *others]:
        hub.heal()
        hub.forget()
        error = refused(hub, Fault(INFO, status=307, headers={"Location": place}))
        assert isinstance(error, SourceRefused)
        assert len(hub.requests()) == 1


def test_a_name_that_leads_to_itself_ends(hub: Hub) -> None:
    place = f"/api/models/{NAME}/revision/main"
    assert isinstance(refused(hub, Fault(INFO, status=307, headers={"Location": place})), SourceUnavailable)
    assert len(hub.requests()) == 2


def test_content_comes_from_listed_hosts_alone(hub: Hub, listener: socket.socket) -> None:
    source = source_for(hub, token=TOKEN)
    pinned = source.pin(NAME)
    for place in places(listener):
        for on, act in ((HEAD, lambda: source.pin(NAME)), ("hub GET */resolve/*", lambda: content(source, pinned))):
            hub.heal()
            fault = hub.inject(Fault(on, headers={"Location": place}))
            with pytest.raises(SourceRefused) as ended:
                act()
            assert fault.hits
            assert ended.value.detail.isprintable()


def test_a_listed_host_at_a_private_address_is_refused(hub: Hub, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    source = source_for(hub, redirect_hosts=(f"localhost:{port}",))
    hub.inject(Fault("hub * */resolve/*", headers={"Location": f"https://localhost:{port}/x"}))
    pinned = source.pin(NAME)
    with pytest.raises(SourceRefused, match="not public"):
        content(source, pinned)


def test_content_that_is_sent_round_and_round_ends(hub: Hub) -> None:
    source = source_for(hub)
    pinned = source.pin(NAME)
    hub.forget()
    hub.inject(Fault("hub GET *", headers={"Location": f"/{NAME}/resolve/main/model.safetensors"}))
    with pytest.raises(SourceUnavailable):
        content(source, pinned)
    assert len(hub.requests()) == 4


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Repo-Commit": SHA},
        {"X-Repo-Commit": ""},
        {"X-Linked-Size": "1"},
        {"X-Linked-Size": "-1"},
        {"X-Linked-Etag": f'"{SHA}"'},
        {"X-Linked-Etag": "\u00e9"},
    ],
)
def test_a_file_that_contradicts_its_list_is_no_answer(hub: Hub, headers: dict[str, str]) -> None:
    assert isinstance(refused(hub, Fault(HEAD, headers=headers)), SourceUnavailable)


def test_a_file_that_is_listed_and_absent_is_no_answer(hub: Hub) -> None:
    hub.inject(says(TREE, [FILE, {**FILE, "path": "model.safetensors", "lfs": LFS}]))
    files = hub.repositories[NAME].at("main")
    assert files is not None
    del files.files["model.safetensors"]
    with pytest.raises(SourceUnavailable, match="does not have a file that it listed"):
        source_for(hub).pin(NAME)


@pytest.mark.parametrize("text", ["\x1b[2J", "x" * 10_000, "Access to this resource is disabled. \x07"])
def test_words_of_the_hub_are_not_repeated(hub: Hub, text: str) -> None:
    headers = {"X-Error-Code": text.replace("\x1b", "e"), "X-Error-Message": text.replace("\x1b", "e")}
    error = refused(hub, Fault(INFO, status=404, headers=headers, body=text.encode()))
    assert isinstance(error, ModelNotFound)
    assert text not in error.detail
