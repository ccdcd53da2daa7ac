"""Certificates are verified, always, for the host that was asked."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from spinal.errors.sources import SourceRefused, SourceUnavailable
from spinal.net.http import Http, Reachable
from tests.conftest import Without
from tests.unit.net.servers import Listener, always, http

PRIVATE = Reachable(("127.0.0.1", "localhost"), ("127.0.0.1", "localhost"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory, without: Without) -> Path:
    """Key and certificate for 127.0.0.1, which nobody but a test trusts."""
    if (openssl := shutil.which("openssl")) is None:
        without("openssl", "apt-get install openssl")
    made = tmp_path_factory.mktemp("tls") / "127.0.0.1.pem"
    names = "subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-addext", names, "-keyout", str(made), "-out", str(made) + ".crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    made.write_text(made.read_text() + Path(f"{made}.crt").read_text())
    return made


@pytest.fixture(scope="module")
def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_trusted_certificate_of_the_host_is_asked(certificate: Path, serving: ssl.SSLContext) -> None:
    body = bytes(range(256)) * 4096
    with Listener(always(http(body)), serving) as server, Http(PRIVATE, ca_file=certificate) as client:
        for _ in range(3):
            assert client.read(server.url, most_bytes=len(body)).body == body
        assert server.connections == 1


def test_credentials_go_over_tls_to_their_origin(certificate: Path, serving: ssl.SSLContext) -> None:
    with Listener(always(http()), serving) as server:
        with Http(PRIVATE, origin=server.url, credentials={"Authorization": "x"}, ca_file=certificate) as client:
            client.read(server.url)
        assert b"Authorization: x" in server.heads[0]


def test_an_unknown_certificate_gets_no_request(serving: ssl.SSLContext) -> None:
    with Listener(always(http()), serving) as server, Http(PRIVATE) as client:
        with pytest.raises(SourceUnavailable, match="its certificate is not trusted"):
            client.read(server.url)
        assert server.heads == []


def test_the_certificate_of_another_host_gets_no_request(certificate: Path, serving: ssl.SSLContext) -> None:
    with Listener(always(http()), serving) as server, Http(PRIVATE, ca_file=certificate) as client:
        with pytest.raises(SourceUnavailable, match="its certificate is not trusted"):
            client.read(f"https://localhost:{server.port}/")
        assert server.heads == []


def test_a_server_without_tls_gets_no_request() -> None:
    with Listener(always(http())) as server, Http(PRIVATE, connect_s=1) as client:
        with pytest.raises(SourceUnavailable):
            client.read(f"https://127.0.0.1:{server.port}/?s3cr3t")
        assert not any(b"s3cr3t" in head for head in server.heads)


def test_a_handshake_that_hangs_ends() -> None:
    late = pytest.raises(SourceUnavailable, match="no connection in time")
    with Listener(always(b"")) as server, Http(PRIVATE, connect_s=0.2) as client, late:
        client.read(f"https://127.0.0.1:{server.port}/")


def test_a_redirect_never_leads_out_of_tls(certificate: Path, serving: ssl.SSLContext) -> None:
    with Listener(always(http(b"inside"))) as inside:
        answering = always(http(b"", "302 Found", f"Location: {inside.url}/"))
        with Listener(answering, serving) as server, Http(PRIVATE, ca_file=certificate) as client:
            with pytest.raises(SourceRefused, match="in clear"):
                client.read(server.url, redirects=1)
            assert len(server.heads) == 1
        inside.assert_untouched()


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_of_certificates_that_cannot_be_read_is_named_without_its_folder(
    content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "corp-ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"'corp-ca\.pem' is no readable file") as caught:
        Http(PRIVATE, ca_file=path)
    assert str(tmp_path) not in str(caught.value)
