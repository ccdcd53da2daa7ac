"""Signed URLs, headers and cookies of our requests reach no log, at whatever level."""

import logging

import httpx
import pytest

from spinal.errors.sources import SourceUnavailable
from spinal.net.http import Http, Reachable, pieces
from tests.unit.net.servers import Connection, Listener, always, http

LOOPBACK = Reachable(("127.0.0.1",), ("127.0.0.1",))


def test_requests_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def answering(head: bytes, connection: Connection) -> None:
        moved = http(b"", "302 Found", "Location: /b?X-Amz-Signature=s3cr3t", "Set-Cookie: s3cr3t=s3cr3t")
        connection.send(moved if b"GET /a" in head else http(b"s3cr3t", "200 OK", "X-Url: s3cr3t"))
        if b"GET /b" in head:
            connection.close()

    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "httpcore.http11", "httpcore.connection"):
        caplog.set_level(logging.DEBUG, name)
    with Listener(answering) as server:
        with Http(LOOPBACK, origin=server.url, credentials={"Authorization": "Bearer s3cr3t"}) as client:
            client.read(f"{server.url}/a?X-Amz-Signature=s3cr3t", redirects=1)
            with client.stream(f"{server.url}/c?s3cr3t") as response:
                list(pieces(response))
            with client.stream(f"{server.url}/c?s3cr3t"):
                pass
        with Http(LOOPBACK) as client, pytest.raises(SourceUnavailable):
            client.read("http://127.0.0.1:1/?s3cr3t")
    assert "s3cr3t" not in caplog.text
    assert [record.name for record in caplog.records if record.name.startswith(("httpx", "httpcore.http11"))] == []


def test_others_keep_their_records(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("httpx", "httpcore.http11"):
        caplog.set_level(logging.DEBUG, name)
    with Listener(always(http(b"x"))) as server, Http(LOOPBACK), httpx.Client(trust_env=False) as theirs:
        theirs.get(f"{server.url}/theirs")
    assert "/theirs" in caplog.text
    assert any(record.name == "httpcore.http11" for record in caplog.records)
