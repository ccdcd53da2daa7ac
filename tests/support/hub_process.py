"""The hub's double as a process of its own, so that it can be frozen and killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.hub import Fault
from tests.support.places import ROOT
from tests.support.waiting import until


class HubProcess:
    """``folder/org/name`` is a repository; ``scratch`` a folder for what the process writes. Killed and started again,
    it has the same ports, and the repositories as they lie in ``folder`` then."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder, self._scratch = folder, scratch
        self._ports = [0, 0]
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        ports = self._scratch / "hub-ports.json"
        ports.unlink(missing_ok=True)
        given = ["--port-file", str(ports), "--port", str(self._ports[0]), "--cdn-port", str(self._ports[1])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hub", str(self._folder), *given], cwd=ROOT
        )
        until(lambda: ports.exists() or self._process.poll() is not None, "the hub to listen")
        self._ports = json.loads(ports.read_text())
        self.url, self.cdn_url = (f"http://127.0.0.1:{port}" for port in self._ports)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Connections stay, and nothing comes over them any more."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def inject(self, fault: Fault) -> None:
        given = {name: value for name, value in vars(fault).items() if name not in ("released", "hits", "body")}
        self.tell(inject=given)

    def heal(self) -> None:
        self.tell(heal=None)

    def tell(self, **what: Any) -> Any:
        """One of the controls of :meth:`tests.support.hub.Hub.control`."""
        with httpx.Client(trust_env=False) as client:
            answer = client.post(f"{self.url}/-/", json=what).raise_for_status()
        return answer.json()
