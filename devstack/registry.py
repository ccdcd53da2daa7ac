"""The whole arrow: a version appears in a registry, an audit runs, the verdict stands on that version."""

import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from devstack.mlflow import MlflowServer
from devstack.processes import StackError
from devstack.stack import Stack

MODEL, ALIAS, TENANT = "chat", "champion", "local"
LAST = "spinal.verdict"
"""The tag that is written when all others stand there."""
PROMPT_SET = "hh-harmless-128"
PROFILE = {"max_tokens": 96, "swap_prompts": 64}
"""As in the demo: shorter than the defaults, so that two cores show a result within seconds."""
GIVEN_UP_S = 900.0
POLL_EVERY_S = 30


def settings_for(server: MlflowServer, folder: Path) -> dict[str, str]:
    """The settings of a stack that is told of the server's versions. Writes the secret and both files below
    ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    secret, sources, registries = (folder / name for name in ("secret", "sources.json", "registries.json"))
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_urlsafe(32))
    sources.write_text(json.dumps({"mlflow": {"url": server.url, "allow": [MODEL], "private_hosts": [server.host]}}))
    rule = {"name": "release", "model": MODEL, "reference": f"@{ALIAS}", "prompt_set": PROMPT_SET, "profile": PROFILE}
    registry = {
        "kind": "mlflow", "tenant": TENANT, "secret_files": [str(secret)], "write_back": True,
        "poll_every_s": POLL_EVERY_S, "rules": [rule],
    }  # fmt: skip
    registries.write_text(json.dumps({"mlflow": registry}))
    return {"SPINAL_MODEL_SOURCES_FILE": str(sources), "SPINAL_REGISTRIES_FILE": str(registries)}


def show_arrow(stack: Stack, server: MlflowServer, folder: Path, base: Path, candidate: Path, console: Console) -> bool:
    """Register the base as champion and the candidate as a new version, and print the tags as they arrive; False where
    no verdict came."""
    champion = server.register(MODEL, base)
    server.alias(MODEL, champion, ALIAS)
    console.print(f"mlflow: {server.url}, {MODEL} version {champion} is @{ALIAS} ({base.name})", markup=False)
    server.send_events(f"{stack.url}/v1/integrations/mlflow", (folder / "secret").read_text())
    version = server.register(MODEL, candidate)
    console.print(f"mlflow: {MODEL} version {version} is registered ({candidate.name}); nothing else is asked")
    return _watch(stack, server, version, console)


def _watch(stack: Stack, server: MlflowServer, version: str, console: Console) -> bool:
    seen: Mapping[str, str] = {}
    ends = time.monotonic() + GIVEN_UP_S
    started = time.monotonic()
    while time.monotonic() < ends:
        tags = server.tags(MODEL, version)
        for key, value in tags.items():
            if seen.get(key) != value:
                console.print(f"{time.monotonic() - started:5.1f} s  {key} = {escape(value)}", soft_wrap=True)
        seen = tags
        if LAST in tags:
            return True
        if tags.get("spinal.state") not in (None, "SUCCEEDED"):
            return False
        stack.keep_up(console.print)
        time.sleep(0.5)
    raise StackError(f"no verdict within {GIVEN_UP_S:.0f} s:\n{stack.child('worker').tail()}")
