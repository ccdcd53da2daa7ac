"""A real server process among clients that send half a request, do not read their answer, or are too many."""

import json
import resource
import select
import selectors
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.processes import HOST, Child, free_port, wait_until
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.settings import Settings
from tests.support.fleet import fleet_environment
from tests.support.waiting import until, within

CLIENTS = 3000
BODY = {"candidate": "local:dpo-short", "prompt_set": "hh-harmless-64"}
LIMITS = {"HEADER_S": "3", "BODY_S": "6", "SILENCE_S": "3", "HALF_SENT": "1024", "IDLE_S": "2"}
CUT_WITHIN_S = 60.0
"""Far more than the limits: five other processes may keep the cores busy."""
LONGEST_S = 20.0
"""An answer of a server that lives, on such a machine."""


@dataclass
class Api:
    child: Child
    port: int
    key: str

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def memory(self) -> int:
        """Bytes of the process."""
        pages = int(Path(f"/proc/{self.child.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.child.pid}/fd").iterdir()))

    def log(self) -> str:
        return self.child.log.read_text(errors="replace")

    def connect(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout=LONGEST_S)


@pytest.fixture
def start(settings: Settings, ledger: Ledger, valkey: Any, tmp_path: Path) -> Iterator[Callable[..., Api]]:
    with ledger.begin() as session:
        key = create_key(session, tenant="t", scopes=("read", "write"), pepper="p")
    with ExitStack() as stack:

        def begin(descriptors: int | None = None, **extra: str) -> Api:
            port = free_port()
            code = "from service.serving import main; main()"
            if descriptors is not None:
                code = f"import resource as r; r.setrlimit(r.RLIMIT_NOFILE, ({descriptors},) * 2); {code}"
            child = Child(
                "api",
                [sys.executable, "-c", code, "--port", str(port)],
                log=tmp_path / f"api-{port}.log",
                env=fleet_environment(settings, valkey, tmp_path)
                | {"SPINAL_KEY_PEPPER": "p", "SPINAL_LOG_LEVEL": "warning"}
                | {f"SPINAL_HTTP_{name}": value for name, value in (LIMITS | extra).items()},
            )
            stack.callback(child.stop)
            found = Api(child, port, key)
            wait_until(lambda: lives(found), child, timeout=120.0)
            return found

        yield begin


def lives(api: Api) -> bool:
    try:
        return httpx.get(f"{api.url}/readyz", timeout=LONGEST_S).status_code == 200
    except httpx.TransportError:
        return False


def head(api: Api, *more: str, key: bool = True) -> bytes:
    lines = ["POST /v1/audits HTTP/1.1", "Host: x", "Content-Type: application/json", *more]
    return "\r\n".join([*lines, *([f"Authorization: Bearer {api.key}"] if key else []), "", ""]).encode()


def half_sent(api: Api) -> list[bytes]:
    """Requests that are never whole."""
    return [
        head(api, "Content-Length: 1000000") + b'{"candidate": "' + b"x" * 20000,
        head(api, "Content-Length: 1000") + b"{",
        head(api, "Transfer-Encoding: chunked") + b'5\r\n{"a":\r\n',
        head(api, "Content-Length: 1000", key=False) + b"{",
        head(api, "Transfer-Encoding: chunked", key=False),
        head(api, "Content-Length: 1000")[:-2],
        b"POST /v1/audits HTTP/1.1\r\nHost: x\r\nX-Filler: " + b"y" * 2000,
        b"G",
        b"",
    ]


class Probing:
    """Asks for what has to go on, in turn, for as long as the block lasts."""

    def __init__(self, api: Api, *, again: bool = False) -> None:
        """``again``: who is hung up on sends the request again, up to ten times."""
        self.api, self.tries, self.answers = api, 10 if again else 1, Counter[tuple[str, int]]()
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._probe, self._submit)]

    def __enter__(self) -> "Probing":
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join(60)

    def _probe(self) -> None:
        while not self._stop.wait(0.05):
            for path in ("/livez", "/readyz"):
                self._ask(path, partial(httpx.get, self.api.url + path, timeout=LONGEST_S))

    def _submit(self) -> None:
        headers = {"Authorization": f"Bearer {self.api.key}"}
        while not self._stop.wait(0.2):
            self._ask(
                "audit", lambda: httpx.post(self.api.url + "/v1/audits", json=BODY, headers=headers, timeout=LONGEST_S)
            )

    def _ask(self, name: str, ask: Callable[[], httpx.Response]) -> None:
        for left in reversed(range(self.tries)):
            try:
                answer = ask()
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                if not left:
                    self.failed.append(f"{name}: {error!r}")
            except httpx.TransportError as error:
                self.failed.append(f"{name}: {error!r}")
                return
            else:
                self.answers[name, answer.status_code] += 1
                return

    def heard_all(self) -> bool:
        return {name for name, status in self.answers.copy() if status < 300} == {"/livez", "/readyz", "audit"}

    def all_were_answered(self) -> None:
        """On a busy machine a probe of the database, or an audit, may be told to come again; never whether it lives."""
        assert self.failed == []
        assert {status for name, status in self.answers if name == "/livez"} == {200}
        assert {status for _, status in self.answers} <= {200, 201, 202, 503}
        assert self.heard_all()


def closed(sockets: list[socket.socket], every: Callable[[], None] = lambda: None) -> list[bytes]:
    """What each has read when all are closed by the server."""
    read, open_ = dict.fromkeys(sockets, b""), set(sockets)
    deadline = time.monotonic() + CUT_WITHIN_S
    with selectors.DefaultSelector() as ready:
        for one in sockets:
            ready.register(one, selectors.EVENT_READ, one)
        while open_:
            assert time.monotonic() < deadline, f"{len(open_)} of {len(sockets)} are still open"
            for key, _ in ready.select(0.2):
                each: socket.socket = key.data
                try:
                    came = each.recv(65536)
                except OSError:
                    came = b""
                read[each] += came
                if not came:
                    ready.unregister(each)
                    open_.discard(each)
            every()
    return list(read.values())


@contextmanager
def opened(api: Api, count: int, say: list[bytes]) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        sockets = []
        for number in range(count):
            each = stack.enter_context(api.connect())
            with suppress(OSError):
                # Unless it was among the oldest already.
                each.sendall(say[number % len(say)])
            sockets.append(each)
        yield sockets


def test_three_thousand_half_sent_requests_silence_nobody_and_are_cut(start: Callable[..., Api]) -> None:
    api = start()
    before, open_before = api.memory(), api.descriptors()
    highest = before
    with Probing(api) as probing, opened(api, CLIENTS, half_sent(api)) as sockets:
        one, *_ = sockets

        def look() -> None:
            nonlocal highest
            highest = max(highest, api.memory())

        answers = closed(sockets, look)
    assert one
    probing.all_were_answered()
    assert highest - before < 200 << 20
    kinds = len(half_sent(api))
    # Without a key: refused although the body never came.
    for without in (3, 4):
        said = {answer.partition(b"\r\n")[0] for answer in answers[without::kinds]}
        assert b"HTTP/1.1 401 Unauthorized" in said
    late = [answer for answer in answers[0::kinds] if answer]
    assert late
    top, _, problem = late[-1].partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in top
    assert json.loads(problem)["code"] == "request_too_slow"
    until(lambda: api.descriptors() < open_before + 20, "the descriptors to come back")


def test_a_byte_now_and_then_is_too_slow_and_a_body_in_pieces_is_not(start: Callable[..., Api]) -> None:
    api = start()
    whole = json.dumps(BODY).encode()
    half, answer = len(whole) // 2, b""
    with api.connect() as trickle:
        trickle.sendall(head(api, "Content-Length: 1000"))
        trickle.settimeout(0.2)
        deadline = time.monotonic() + CUT_WITHIN_S
        said = b""
        while time.monotonic() < deadline:
            try:
                trickle.sendall(b"x")
                came = trickle.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            said += came
            if not came:
                break
        else:
            raise AssertionError("still open")
        assert said.startswith(b"HTTP/1.1 408 ")
    with api.connect() as pieces:
        pieces.sendall(head(api, f"Content-Length: {len(whole)}", "Connection: close") + whole[:half])
        assert not within(lambda: select.select([pieces], [], [], 0)[0], 0.5), "answered before it was whole"
        pieces.sendall(whole[half:])
        while came := pieces.recv(65536):
            answer += came
    assert answer.split()[1] in (b"201", b"202")


def test_with_few_descriptors_the_oldest_half_sent_make_room(start: Callable[..., Api]) -> None:
    api = start(256, HEADER_S="60", BODY_S="120", SILENCE_S="60")
    say = half_sent(api)
    # Of fifty places a storm may take one between a connection and its request.
    with Probing(api, again=True) as probing, opened(api, 600, say):
        until(probing.heard_all, "answers meanwhile", timeout=CUT_WITHIN_S)
    probing.all_were_answered()
    assert api.child.alive()


def test_who_does_not_read_an_answer_is_cut_and_takes_nothing_from_others(start: Callable[..., Api]) -> None:
    api = start()
    ask = f"GET /openapi.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n\r\n".encode() * 400
    before = api.descriptors()
    with ExitStack() as stack:
        for _ in range(20):
            each = stack.enter_context(socket.socket())
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            each.settimeout(0.2)
            each.connect((HOST, api.port))
            with suppress(OSError):
                each.sendall(ask)
        with Probing(api) as probing:
            until(lambda: "answer_not_taken" in api.log(), "one to be cut", timeout=CUT_WITHIN_S)
            until(lambda: api.descriptors() <= before + 10, "all to be cut", timeout=CUT_WITHIN_S)
            until(probing.heard_all, "answers meanwhile", timeout=CUT_WITHIN_S)
    probing.all_were_answered()
