"""The process of the API: ``python -m service --host 0.0.0.0 --port 8000``."""

import argparse
import asyncio
import resource
import socket
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.http.connections import Guard, limits_of
from service.settings import settings_at_start

BACKLOG, AT_ONCE = 1024, 100
"""Connections that the system keeps until they are accepted; so many are, before anything else is read or answered."""
MOST_DESCRIPTORS = 65536


class Server(uvicorn.Server):
    """uvicorn, with bounds on its connections; when it stops, requests that wait are answered."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, guard: Guard) -> None:
        super().__init__(config)
        self._app, self._guard = app, guard
        self._watching: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._watching = asyncio.create_task(self._guard.watch())
        await super().startup(sockets)
        for server in self.servers:
            for each in server.sockets:
                # asyncio knows one number for both.
                with socket.fromfd(each.fileno(), each.family, each.type) as shared:
                    shared.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.waits.end()
        await super().shutdown(sockets)
        if self._watching is not None:
            self._watching.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m service", description="The API; its settings are SPINAL_*.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    chosen = parser.parse_args(arguments)
    settings = settings_at_start()
    guard = Guard(limits_of(settings, raise_descriptors()))
    app = create_app()
    config = uvicorn.Config(
        app,
        host=chosen.host,
        port=chosen.port,
        loop="asyncio",
        http=guard.protocol(),
        ws="none",
        lifespan="on",
        # As the application has set them up.
        log_config=None,
        access_log=False,
        # Whom to believe about where callers reach the service is a setting of ours (service/http/addresses.py).
        proxy_headers=False,
        backlog=AT_ONCE,
        timeout_keep_alive=settings.http_idle_s,
    )
    server = Server(config, app, guard)
    server.run()
    return 0 if server.started else 1


def raise_descriptors() -> int:
    """Let this process open as many files as it may, within reason; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
