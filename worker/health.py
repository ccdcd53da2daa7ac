"""What a dispatcher answers over HTTP: ``/livez``, and ``/metrics`` where they are served."""

import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from worker.turns import Turns, standing_still, waiting_for

SILENT_CALLER_S = 10.0


def serve(address: str, port: int, turns: Turns, registry: CollectorRegistry | None) -> ThreadingHTTPServer:
    """Answer on a port from now on, from threads that end with the process. Without a registry no metrics."""

    class Answers(BaseHTTPRequestHandler):
        timeout = SILENT_CALLER_S

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/livez":
                self._livez()
            elif registry is not None and path in ("/metrics", "/"):
                encode, kind = choose_encoder(self.headers.get("Accept", ""))
                self._say(200, encode(registry), kind)
            else:
                self._say(404, b"nothing here\n")

        def _livez(self) -> None:
            """Reads what the loops have said: neither the database nor the broker is asked."""
            state = turns.state()
            why, waits = standing_still(state, time.monotonic()), waiting_for(state)
            told = [*why, *(f"waiting for {what}" for what in waits)] or ["alive"]
            self._say(503 if why else 200, ("\n".join(told) + "\n").encode())

        def _say(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes and scrapes are no news."""

    class Server(ThreadingHTTPServer):
        address_family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        daemon_threads = True

    server = Server((address, port), Answers)
    Thread(target=server.serve_forever, daemon=True, name=f"http-{port}").start()
    return server
