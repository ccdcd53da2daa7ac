"""Captures in a bucket, against a real object store (``tests/support/object_server.py``)."""

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.database.unit_of_work import Ledger
from service.operations.own_store import require_own_store
from service.platform.artifacts import MARKER, ArtifactStore
from service.platform.reaching_stores import PIECE, reach
from service.settings import Settings
from spinal.errors import CaptureMissing, StorageRefused, StorageUnavailable
from tests.conftest import ROOT, Without
from tests.support.object_server import OWNER, STRANGER, ObjectServer, missing
from tests.support.waiting import until

SECRET = "not-the-secret-of-anybody"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, without: Without) -> Iterator[ObjectServer]:
    home = tmp_path_factory.mktemp("objects")
    if importlib.util.find_spec("s3fs") is None:
        without("s3fs", 'pip install "spinal[s3]"')
    if lacks := missing(home):
        without(*lacks)
    with ObjectServer(home) as running:
        running.make_bucket("captures")
        yield running


def options(server: ObjectServer, **more: Any) -> dict[str, object]:
    said: dict[str, object] = {"endpoint_url": server.endpoint, "region": "us-east-1"}
    return said | {"key": OWNER.id, "secret": OWNER.secret} | more


def store(server: ObjectServer, tmp_path: Path, url: str = "", timeout_s: float = 10.0, **more: Any) -> ArtifactStore:
    return ArtifactStore(
        Settings(
            artifact_url=url or f"s3://captures/{uuid.uuid4().hex}",
            artifact_options=json.dumps(options(server, **more)),
            artifact_timeout_s=timeout_s,
            scratch_dir=tmp_path / "scratch",
        )
    )


def capture(tmp_path: Path, content: bytes = b"capture" * 1000) -> Path:
    path = tmp_path / "local.safetensors"
    path.write_bytes(content)
    return path


def test_a_capture_goes_into_a_bucket_and_comes_back_whole(server: ObjectServer, tmp_path: Path) -> None:
    there, other = (store(server, tmp_path, "s3://captures/prod") for _ in range(2))
    there.probe()
    stored = [there.put(capture(tmp_path, bytes([number]) * 100), f"{number:02d}capture") for number in range(9)]
    # More than the server lists at once.
    assert other.older_than(-60.0) == sorted(each.uri for each in stored)
    assert other.older_than(3600.0) == []
    with other.local_copy(stored[3].uri, stored[3].bytes, stored[3].sha256) as path:
        assert path.read_bytes() == bytes([3]) * 100
    assert list((tmp_path / "scratch").iterdir()) == []
    server.put("captures", f"prod/{stored[3].uri}", b"x" * 100)
    with (
        pytest.raises(CaptureMissing, match="not what was stored"),
        other.local_copy(stored[3].uri, stored[3].bytes, stored[3].sha256),
    ):
        pass
    other.remove(stored[0].uri)
    other.remove(stored[0].uri)
    assert there.size(stored[0].uri) is there.sha256(stored[0].uri) is None
    with pytest.raises(CaptureMissing), there.local_copy(stored[0].uri, 100, None):
        pass


def test_one_request_stores_a_capture(server: ObjectServer, tmp_path: Path) -> None:
    with Counting(server) as counting:
        there = store(server, tmp_path, endpoint_url=counting.endpoint)
        there.put(capture(tmp_path), "one")
    assert [line.split()[0] for line in counting.requests] == ["PUT"]


def test_no_bucket_is_made(server: ObjectServer, tmp_path: Path) -> None:
    there = store(server, tmp_path, "s3://nobody-made-this/x")
    for attempt in (there.probe, lambda: there.put(capture(tmp_path), "a"), there.marker, lambda: there.older_than(0)):
        with pytest.raises(StorageRefused, match="bucket of the artifact store is not there"):
            attempt()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"secret": SECRET}, "does not let this worker in"),
        ({"key": STRANGER.id, "secret": STRANGER.secret}, "does not let this worker in"),
        ({"key": "test:nobody"}, "does not let this worker in"),
    ],
    ids=["wrong secret", "no rights", "unknown"],
)
def test_who_is_not_let_in_is_told_so_without_the_secret(
    server: ObjectServer, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    there = store(server, tmp_path, "s3://captures/prod", **wrong)
    attempts: list[Any] = [
        there.probe, there.marker, lambda: there.put(capture(tmp_path), "a"), lambda: there.size("captures/a"),
        lambda: there.sha256("captures/a"), lambda: there.remove("captures/a"), lambda: there.older_than(0),
        lambda: there.local_copy("captures/a", 1, None).__enter__(),
    ]  # fmt: skip
    for attempt in attempts:
        with pytest.raises(StorageRefused, match=said) as refused:
            attempt()
        assert SECRET not in f"{refused.value.detail} {refused.value.hint}"
        assert "\n" not in refused.value.detail


def test_secrets_come_from_files_and_those_of_the_surroundings_only_when_asked_for(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(f"{OWNER.id}\n")
    (tmp_path / "secret").write_text(f"{OWNER.secret}\n")
    bare = {"endpoint_url": server.endpoint, "region": "us-east-1"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", OWNER.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", OWNER.secret)
    url = f"s3://captures/{uuid.uuid4().hex}"

    def said(**more: object) -> ArtifactStore:
        return ArtifactStore(Settings(artifact_url=url, artifact_options=json.dumps(bare | more)))

    said(key_file=str(tmp_path / "key"), secret_file=str(tmp_path / "secret")).probe()
    said(ambient=True).probe()
    with pytest.raises(StorageRefused, match="names no credentials"):
        said()
    with pytest.raises(StorageRefused, match="secret_file cannot be read"):
        said(key_file=str(tmp_path / "key"), secret_file=str(tmp_path / "none"))


def test_a_store_that_does_not_answer_is_away_and_not_for_ever(server: ObjectServer, tmp_path: Path) -> None:
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as silent:
        closed.bind(("127.0.0.1", 0))
        for listening in (closed, silent):
            endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
            there, before = store(server, tmp_path, timeout_s=0.3, endpoint_url=endpoint), time.monotonic()
            with pytest.raises(StorageUnavailable, match="cannot be used") as away:
                there.size("captures/a")
            assert not isinstance(away.value, StorageRefused)
            assert time.monotonic() - before < 60.0


SAID = {
    "nothing": b"",
    "only that it would read on": b"HTTP/1.1 100 Continue\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": b'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nETag: "a"\r\n\r\nabc',
}
UPLOAD = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (len(UPLOAD), UPLOAD)


def test_the_first_answer_of_a_long_upload_is_understood(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And every part is waited for no longer than anything else."""
    monkeypatch.setattr("service.platform.reaching_stores.PIECE", 2**16)
    with Saying(b"", first=BEGUN) as half:
        there = store(server, tmp_path, timeout_s=0.5, endpoint_url=half.endpoint)
        all_given_up([lambda: there.put(capture(tmp_path, bytes(2**20)), "a")])
        assert [line for line in half.asked if b"partNumber=1" in line]


@pytest.mark.parametrize("said", SAID)
def test_no_call_waits_for_ever_for_a_store_that_stops_in_the_middle(
    server: ObjectServer, tmp_path: Path, said: str
) -> None:
    """Requests that ask first whether to send their body (100-continue), too, which no timeout of a library ends."""
    with Saying(SAID[said]) as stopping:
        there = store(server, tmp_path, timeout_s=0.5, endpoint_url=stopping.endpoint)
        all_given_up([
            lambda: there.put(capture(tmp_path), "a"), lambda: there.size("captures/a"), there.marker,
            lambda: there.sha256("captures/a"), there.probe, lambda: there.mark(uuid.uuid4()),
            lambda: there.remove("captures/a"), lambda: there.older_than(0.0),
            lambda: there.local_copy("captures/a", 3, None).__enter__(),
        ])  # fmt: skip
        # A capture, a marker and a probe.
        assert sum(line.startswith(b"PUT") for line in stopping.asked) >= 3


def all_given_up(calls: list[Callable[[], object]]) -> None:
    """At once, each with StorageUnavailable."""
    with ThreadPoolExecutor(len(calls)) as pool:
        given_up = [pool.submit(call) for call in calls]
        for each in given_up:
            problem = each.exception(60.0)
            assert type(problem) is StorageUnavailable, problem


def test_a_capture_of_many_parts_comes_back_whole(server: ObjectServer, tmp_path: Path) -> None:
    there, content = store(server, tmp_path), os.urandom(2 * PIECE + 1)
    stored = there.put(capture(tmp_path, content), "many")
    assert there.sha256(stored.uri) == stored.sha256
    with there.local_copy(stored.uri, stored.bytes, stored.sha256) as path:
        assert path.read_bytes() == content


def test_a_store_that_freezes_is_away_until_it_goes_on(server: ObjectServer, tmp_path: Path) -> None:
    there = store(server, tmp_path, timeout_s=0.5)
    there.probe()
    with server.frozen():
        all_given_up([lambda: there.put(capture(tmp_path, os.urandom(PIECE)), "a"), there.probe])
    until(lambda: works(there.probe), "the store to be used again")
    assert there.put(capture(tmp_path), "a").bytes == there.size(there.uri("a"))


def works(call: Callable[[], object]) -> bool:
    try:
        call()
    except StorageUnavailable:
        return False
    return True


def test_every_error_of_a_store_is_told_as_one(server: ObjectServer, tmp_path: Path) -> None:
    """Errors that the libraries themselves raise."""
    at = reach(Settings(artifact_url="s3://captures/x", artifact_options=json.dumps(options(server))))
    for error, expected in errors():
        with pytest.raises(StorageUnavailable) as told, at.errors():
            raise error
        assert type(told.value) is expected, error
        assert told.value.__cause__ is error
        assert OWNER.secret not in told.value.detail.replace("test:tester", "")


def errors() -> list[tuple[BaseException, type[StorageUnavailable]]]:
    import aiohttp
    from botocore import exceptions as boto

    found: list[tuple[BaseException, type[StorageUnavailable]]] = [
        (boto.EndpointConnectionError(endpoint_url="http://x"), StorageUnavailable),
        (boto.ConnectTimeoutError(endpoint_url="http://x"), StorageUnavailable),
        (boto.ReadTimeoutError(endpoint_url="http://x"), StorageUnavailable),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), StorageUnavailable),
        (boto.ClientError({"Error": {"Code": "InternalError"}}, "PutObject"), StorageUnavailable),
        (boto.ClientError({"Error": {"Code": "AccessDenied"}}, "PutObject"), StorageRefused),
        (boto.ClientError({"Error": {"Code": "NoSuchBucket"}}, "PutObject"), StorageRefused),
        (boto.NoCredentialsError(), StorageRefused),
        (boto.PartialCredentialsError(provider="x", cred_var="y"), StorageRefused),
        (aiohttp.ClientPayloadError("cut off"), StorageUnavailable),
        (aiohttp.ServerDisconnectedError(), StorageUnavailable),
        (TimeoutError(), StorageUnavailable),
        (TimeoutError(), StorageUnavailable),
        (asyncio.CancelledError(), StorageUnavailable),
        (OSError("without a number"), StorageUnavailable),
        (OSError(5, f"said {OWNER.secret}"), StorageUnavailable),
        (ConnectionResetError(104, "reset"), StorageUnavailable),
        (PermissionError("SignatureDoesNotMatch"), StorageRefused),
        (FileNotFoundError("The specified bucket does not exist"), StorageRefused),
        (RuntimeError("a bug of a library"), StorageUnavailable),
    ]
    if importlib.util.find_spec("gcsfs") is not None:
        from gcsfs.retry import HttpError
        from google.auth import exceptions as google

        found += [
            (google.TransportError("no route"), StorageUnavailable),
            (google.RefreshError("revoked"), StorageRefused),
            (google.DefaultCredentialsError("none"), StorageRefused),
            (HttpError({"code": 401, "message": "Invalid Credentials"}), StorageRefused),
            (HttpError({"code": 503, "message": "back end"}), StorageUnavailable),
            (OSError("Forbidden: https://storage"), StorageRefused),
        ]
    return found


def test_a_bucket_belongs_to_one_installation_whoever_comes_first(
    server: ObjectServer, tmp_path: Path, ledger: Ledger
) -> None:
    url = f"s3://captures/{uuid.uuid4().hex}"
    stores = [store(server, tmp_path, url) for _ in range(4)]
    threads = [
        threading.Thread(target=require_own_store, args=(ledger, each), kwargs={"adopt": True}) for each in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.marker() for each in stores}) == 1
    for each in stores:
        require_own_store(ledger, each, adopt=False)
    other = uuid.uuid4()
    stores[0].mark(other)
    assert stores[0].marker() != other
    server.put(url.split("/")[2], f"{url.split('/')[3]}/{MARKER}", f"{other}\n".encode())
    with pytest.raises(StorageRefused, match=str(other)):
        require_own_store(ledger, stores[1], adopt=True)


@pytest.mark.parametrize("protocol", ["s3", "gs", "nothing-known"])
def test_a_package_that_is_not_there_is_named(protocol: str) -> None:
    """In a process that cannot import it."""
    code = (
        "import sys\n"
        "for name in ('s3fs', 'gcsfs'): sys.modules[name] = None\n"
        "from service.platform.artifacts import ArtifactStore\n"
        "from service.settings import Settings\n"
        "from spinal.errors import StorageRefused\n"
        f"try: ArtifactStore(Settings(artifact_url='{protocol}://b/x', artifact_options='{{\"anon\": true}}'))\n"
        "except StorageRefused as error: print(error.detail, error.hint)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert {"s3": "spinal[s3]", "gs": "spinal[gcs]"}.get(protocol, "cannot be set up") in said


class Saying:
    """A server that answers every request with the same words, ``first`` to the first, and then waits."""

    def __init__(self, words: bytes, first: bytes | None = None) -> None:
        self.asked: list[bytes] = []
        self._words, self._first = words, first
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._taken: list[socket.socket] = []
        self.endpoint = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> "Saying":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listening, *self._taken):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._taken.append(self._listening.accept()[0])
                threading.Thread(target=self._answer, args=(self._taken[-1],), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while head := client.recv(65536):
                self.asked.append(head.split(b"\r\n", 1)[0])
                said, self._first = self._first or self._words, None
                client.sendall(said)


class Counting:
    """Passes requests on to the store, and writes down their first lines."""

    def __init__(self, server: ObjectServer) -> None:
        self.requests: list[str] = []
        self._upstream = server.port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> "Counting":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", self._upstream))
            for one, other, seen in ((client, upstream, True), (upstream, client, False)):
                threading.Thread(target=self._pass_on, args=(one, other, seen), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket, seen: bool) -> None:
        while True:
            try:
                piece = one.recv(65536)
                if seen:
                    self.requests += [
                        line for line in piece.decode("latin-1").split("\r\n") if line.endswith(" HTTP/1.1")
                    ]
                if not piece:
                    other.shutdown(socket.SHUT_WR)
                    return
                other.sendall(piece)
            except OSError:
                return


def test_the_counting_passes_on(server: ObjectServer, tmp_path: Path) -> None:
    with Counting(server) as counting:
        store(server, tmp_path, endpoint_url=counting.endpoint).probe()
        until(lambda: len(counting.requests) >= 3, "requests of a probe")
