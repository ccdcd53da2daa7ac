"""Whatever bytes come, they are an answer, or a source that is unavailable or refused; nothing else comes out."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spinal.errors.sources import SourceRefused, SourceUnavailable
from spinal.net.http import Http, Reachable
from tests.unit.net.servers import Connection, Listener

FRAGMENTS = st.sampled_from(
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 Found\r\n", b"HTTP/1.0 200\r\n", b"HTTP/9.9 999 x\r\n",
     b"HTTP/1.1 100 C\r\n\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n",
     b"Content-Length: 99999999999999999999\r\n", b"Transfer-Encoding: chunked\r\n",
     b"Transfer-Encoding: gzip, chunked\r\n", b"Location: /again\r\n", b"Location: http://[\r\n",
     b"Location: \xff\xfe\r\n", b"Location: http://127.0.0.1:1:1/\r\n", b"Location: http://10.0.0.1/\r\n",
     b"Location:\r\n", b"Content-Encoding: \xe9\x1b[2K\r\n", b"Connection: close\r\n", b"Retry-After: x\r\n", b": \r\n",
     b"\r\n", b"hello", b"5\r\nhello\r\n", b"0\r\n\r\n", b"ffffffffffffffffffff\r\n", b"\x16\x03\x01", b"\x00",
     b"\x1b]0;title\x07"]
)  # fmt: skip
ANSWERS = st.lists(FRAGMENTS | st.binary(max_size=20), max_size=8).map(b"".join)


class Saying:
    """Says what it is told to, and breaks off."""

    answer = b""

    def __call__(self, head: bytes, connection: Connection) -> None:
        connection.send(self.answer)
        connection.close()


@pytest.fixture(scope="module")
def saying() -> Saying:
    return Saying()


@pytest.fixture(scope="module")
def server(saying: Saying) -> Iterator[Listener]:
    with Listener(saying) as listening:
        yield listening


@pytest.fixture(scope="module")
def client(server: Listener) -> Iterator[Http]:
    own = f"127.0.0.1:{server.port}"
    with Http(Reachable((own,), (own,))) as made:
        yield made


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=ANSWERS | ANSWERS.map(lambda rest: b"HTTP/1.1 302 Found\r\n" + rest), redirects=st.integers(0, 2))
def test_any_bytes_end_in_an_answer_or_in_one_clean_line(
    answer: bytes, redirects: int, saying: Saying, server: Listener, client: Http
) -> None:
    saying.answer = answer
    told = ""
    try:
        read = client.read(server.url, redirects=redirects, most_bytes=100)
    except (SourceUnavailable, SourceRefused) as error:
        told = str(error)
    else:
        assert len(read.body) <= 100
    assert told.isprintable()
