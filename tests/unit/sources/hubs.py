"""What tests of the hub share: a double with one checkpoint, and our source of it."""

from typing import Any

from pydantic import SecretStr

from spinal.checkpoints.sources.base import Listed, Pinned, Timeouts
from spinal.checkpoints.sources.hf import Hub as Source
from spinal.checkpoints.sources.hf import HubSettings
from tests.conftest import EXAMPLES
from tests.support.hub import Hub

SFT = EXAMPLES / "checkpoints" / "sft"
NAME = "acme/tuned"
TOKEN = "hf_secret"
SOON = Timeouts(connect=1.0, read=0.3, pin=5.0)
"""For what has to end, or to go wrong, within a test."""


def settings_for(hub: Hub, **given: Any) -> HubSettings:
    token = given.pop("token", None)
    cdn = hub.cdn_url.removeprefix("http://")
    usual = {"endpoint": hub.url, "allow": ("acme/*",), "redirect_hosts": (cdn,), "private_hosts": ("127.0.0.1",)}
    return HubSettings(**{**usual, "token": None if token is None else SecretStr(token), **given})


def source_for(hub: Hub, *, timeouts: Timeouts = SOON, **given: Any) -> Source:
    return Source(settings_for(hub, **given), timeouts)


def file_of(pinned: Pinned, name: str = "model.safetensors") -> Listed:
    assert pinned.files is not None
    return next(file for file in pinned.files if file.name == name)


def content(source: Source, pinned: Pinned, name: str = "model.safetensors", **part: int) -> bytes:
    with source.read(pinned, file_of(pinned, name), **part) as coming:
        return b"".join(coming)
