"""What a service and its inspecting children say to each other: JSON in frames of stated length."""

import json
import os
import selectors
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from spinal.checkpoints.copies import Copy, KnownCopies, heard_copy, told_copy
from spinal.checkpoints.folders import Step
from spinal.checkpoints.survey import Surveyed
from spinal.errors import SpinalError, all_errors

LENGTH = 4
MOST_FRAME = 16 * 2**20
Message = dict[str, Any]


class Closed(Exception):
    """The other side is gone."""


def send(descriptor: int, message: Message) -> None:
    """Raises Closed."""
    raw = json.dumps(message).encode("ascii")
    data = memoryview(len(raw).to_bytes(LENGTH, "big") + raw)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        raise Closed from error


def receive(descriptor: int, deadline: float | None = None) -> Message:
    """The next message. Raises Closed, and TimeoutError once the monotonic clock shows ``deadline``."""
    length = int.from_bytes(_read(descriptor, LENGTH, deadline), "big")
    if length > MOST_FRAME:
        raise Closed
    message: Message = json.loads(_read(descriptor, length, deadline))
    return message


def _read(descriptor: int, wanted: int, deadline: float | None) -> bytes:
    found = bytearray()
    with selectors.DefaultSelector() as ready:
        ready.register(descriptor, selectors.EVENT_READ)
        while len(found) < wanted:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and (left <= 0 or not ready.select(left)):
                raise TimeoutError
            try:
                piece = os.read(descriptor, wanted - len(found))
            except OSError as error:
                raise Closed from error
            if not piece:
                raise Closed
            found += piece
    return bytes(found)


def told_survey(found: dict[str, Surveyed]) -> Message:
    return {"found": {role: asdict(each) for role, each in found.items()}}


def heard_survey(message: Message) -> dict[str, Surveyed]:
    return {role: Surveyed(**each | _tuples(each)) for role, each in message["found"].items()}


def _tuples(told: Message) -> dict[str, Any]:
    return {name: tuple(told[name]) for name in ("remarks", "differences")}


def told_copies(found: Mapping[str, Copy], failed: Mapping[str, SpinalError]) -> Message:
    """The copies that were made of references, and what became of those that none could be made of."""
    return {
        "found": {reference: told_copy(copy) for reference, copy in found.items()},
        "failed": {reference: told_error(error) for reference, error in failed.items()},
    }


def heard_copies(message: Message) -> KnownCopies:
    """What :func:`told_copies` told."""
    return KnownCopies(
        {reference: heard_copy(told) for reference, told in message["found"].items()},
        {reference: heard_error(told) for reference, told in message["failed"].items()},
    )


def told_folder(found: list[Step]) -> Message:
    return {"folder": [[each.step, each.reference] for each in found]}


def heard_folder(message: Message) -> list[Step]:
    return [Step(step, reference) for step, reference in message["folder"]]


def told_error(error: SpinalError) -> Message:
    return {"error": {"code": error.code, "detail": error.detail, "hint": error.hint, "extra": error.extra}}


def heard_error(message: Message) -> SpinalError:
    """The error as it was raised on the other side."""
    told = message["error"]
    return all_errors()[told["code"]](told["detail"], hint=told["hint"], **told["extra"])
