"""An API in this process, behind a client of tests or behind a real socket for commands that run in others."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.support.waiting import until


def application(client: TestClient) -> FastAPI:
    """What the client asks, with its state."""
    assert isinstance(client.app, FastAPI)
    return client.app


@contextlib.contextmanager
def served(settings: Settings) -> Iterator[str]:
    """Address of an API on ``settings``."""
    with serving(create_app(settings)) as address:
        yield address


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Address of an application, with the options of the images."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", proxy_headers=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive(), "the API to listen")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextlib.contextmanager
def at_work(drain: Callable[[], int]) -> Iterator[None]:
    """Carries out whatever is queued, as long as the block lasts."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.1):
            drain()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
