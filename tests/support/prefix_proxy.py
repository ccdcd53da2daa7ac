"""A reverse proxy on loopback that serves another server below a path, as nginx does with ``location /spinal/``."""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "date", "server"})


@dataclass(frozen=True)
class Behind:
    """How the proxy serves what lies behind it."""

    prefix: str = "/spinal"
    strips: bool = True
    """Whether the prefix is taken off what is passed on."""
    tells: bool = True
    """Whether it sends X-Forwarded-Prefix, -Host and -Proto."""


@contextlib.contextmanager
def below_a_path(target: str, behind: Behind) -> Iterator[str]:
    """Address of ``target`` as the proxy serves it."""
    port = urlsplit(target).port

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def passed_on(self) -> None:
            if not self.path.startswith(f"{behind.prefix}/"):
                self.send_error(404, "nothing outside of the prefix")
                return
            path = self.path.removeprefix(behind.prefix) if behind.strips else self.path
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            if behind.tells:
                told = {"Prefix": behind.prefix, "Host": "audits.example", "Proto": "https"}
                headers |= {f"X-Forwarded-{name}": value for name, value in told.items()}
            server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                server.request(self.command, path, body, headers | {"Host": "inner.internal"})
                answer = server.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in HOP:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            finally:
                server.close()

        do_GET = do_POST = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = passed_on

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}{behind.prefix}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join(10)
