"""A URL is read in one way only; odd ways to write a host reach nobody."""

import pytest

from spinal.errors.sources import SourceRefused, SourceUnavailable
from spinal.net.http import Http, Reachable
from spinal.net.targets import redirected, target_of
from tests.unit.net.servers import Listener, always, http, paths

LOOPBACK = [
    "http://127.1:{port}/", "http://127.0.1:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1:{port}/", "http://0177.0.0.1:{port}/", "http://017700000001:{port}/", "http://127.0.0.01:{port}/",
    "http://127.0.0.1.:{port}/", "http://localhost.:{port}/", "http://localhost:{port}/", "http://LOCALHOST:{port}/",
    "http://0:{port}/", "http://0.0.0.0:{port}/", "http://[::]:{port}/", "http://127.255.255.254:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/", "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/", "http://[::1]:{port}/", "http://[::1%25lo]:{port}/", "http://[::1%lo]:{port}/",
    "http://%31%32%37.0.0.1:{port}/", "http://127%2e0.0.1:{port}/", "http://１２７.0.0.1:{port}/", "http://127。0。0。1:{port}/",
    "http://ⓛocalhost:{port}/", "http://①②⑦.0.0.1:{port}/", "http://loc\u00adalhost:{port}/",
    "http://models.example@127.0.0.1:{port}/", "http://a:b@127.0.0.1:{port}/", "http://@127.0.0.1:{port}/",
    "http://models.example:80@127.0.0.1:{port}/", "http://127.0.0.1:{port}@models.example/",
    "http://models.example\\@127.0.0.1:{port}/", "http://127.0.0.1:{port}\\.models.example/",
    "http://127.0.0.1:{port}#@models.example/", "http://models.example#@127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/", "http:/127.0.0.1:{port}/", "http:///127.0.0.1:{port}/", "//127.0.0.1:{port}/",
    "http:\\\\127.0.0.1:{port}\\", "127.0.0.1:{port}", "ftp://127.0.0.1:{port}/", "file:///etc/passwd", "gopher://127.0.0.1:{port}/",
    "unix:///var/run/docker.sock", "ws://127.0.0.1:{port}/", "http://127.0.0.1:{port}\t/", " http://127.0.0.1:{port}/",
    "http://127.0.0.1 :{port}/", "http://127.0.0.1:{port}\r\nHost: x/", "http://127.0.0.1:+{port}/", "http://127.0.0.1:0{port}0/",
    "http://127.0.0.1:{port}:1/", "http://127.0.0.1:/", "http://:{port}/", "http://[127.0.0.1]:{port}/", "http://[::1:{port}/",
    "http://::1:{port}/", "http://127.0.0.1:{port}", "https://127.0.0.1:{port}/", "",
]  # fmt: skip


@pytest.mark.parametrize("written", LOOPBACK)
@pytest.mark.parametrize("via", ["first", "redirect"])
def test_no_spelling_of_loopback_gets_a_byte(written: str, via: str) -> None:
    with Listener(always(http(b"secret"))) as inside, Listener(lambda head, connection: None) as hub:
        url = written.format(port=inside.port)
        hub._answering = always(http(b"", "302 Found", f"Location: {url.encode('utf-8').decode('latin-1')}"))
        with Http(Reachable((f"127.0.0.1:{hub.port}", "models.example"), (f"127.0.0.1:{hub.port}",))) as client:
            start, redirects = (url, 0) if via == "first" else (f"{hub.url}/", 3)
            # A redirect that no parser takes for one stays on the hub, which redirects again until the end.
            with pytest.raises((SourceRefused, SourceUnavailable)) as caught:
                client.read(start, redirects=redirects)
            assert via == "redirect" or isinstance(caught.value, SourceRefused)
        inside.assert_untouched()


@pytest.mark.parametrize(
    ("written", "host", "port", "path"),
    [
        ("https://huggingface.co/a/b?c=d%2Fe#f", "huggingface.co", 443, b"/a/b?c=d%2Fe"),
        ("HTTPS://HuggingFace.CO:8443", "huggingface.co", 8443, b"/"),
        ("https://huggingface.co?a=b", "huggingface.co", 443, b"/?a=b"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, b"/"),
        ("https://[0:0::1]:1/", "::1", 1, b"/"),
        ("http://a_b.corp/x%20y", "a_b.corp", 80, b"/x%20y"),
        ("https://hub.example/Größe", "hub.example", 443, b"/Gr%C3%B6%C3%9Fe"),
    ],
)
def test_a_plain_url_is_read_as_it_is_written(written: str, host: str, port: int, path: bytes) -> None:
    target = target_of(written)
    assert (target.host, target.port, target.url.raw_path) == (host, port, path)
    assert target.url.raw_host.decode() == host, "the request asks the host that was checked"


@pytest.mark.parametrize(
    ("location", "goes_to"),
    [
        ("/other?x=1", "https://hub.example/other?x=1"),
        ("other", "https://hub.example/a/other"),
        ("?x", "https://hub.example/a/b?x"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("https://cdn.example:444/x", "https://cdn.example:444/x"),
    ],
)
def test_a_redirect_is_read_from_where_it_was_met(location: str, goes_to: str) -> None:
    assert str(redirected(target_of("https://hub.example/a/b"), location).url) == goes_to


def test_a_redirect_from_https_to_http_is_refused() -> None:
    with pytest.raises(SourceRefused, match="in clear"):
        redirected(target_of("https://127.0.0.1/"), "http://127.0.0.1/")


def test_a_url_is_told_by_its_host_alone() -> None:
    for url in (
        "https://h.example:99999/?sig=s3cr3t",
        "https://user:s3cr3t@h.example/",
        "https://h.example/" + "s3cr3t" * 9999,
    ):
        with pytest.raises(SourceRefused) as caught:
            target_of(url)
        assert "s3cr3t" not in f"{caught.value} {caught.value.hint}"
    assert "s3cr3t" not in repr(target_of("https://h.example/?sig=s3cr3t"))


def test_a_host_is_shown_without_what_a_terminal_obeys() -> None:
    with pytest.raises(SourceRefused) as caught:
        target_of("https://h\x1b[2K.example/")
    assert str(caught.value).isprintable()


def test_the_same_hosts_are_asked_where_they_are_listed() -> None:
    """The table above would pass if nothing were ever asked."""
    with Listener(paths({"/": http(b"here")})) as inside:
        with Http(Reachable(("127.0.0.1", "localhost"), ("127.0.0.1", "localhost"))) as client:
            assert client.read(f"http://127.0.0.1:{inside.port}").body == b"here"
            assert client.read(f"http://LocalHost:{inside.port}/").body == b"here"
        assert inside.connections == 2
