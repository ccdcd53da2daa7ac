"""What a service and its inspecting children say to each other: JSON in frames of stated length."""

import json
import os
import selectors
import time
from dataclasses import asdict
from typing import Any

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
    return {role: Surveyed(**each | {"remarks": tuple(each["remarks"])}) for role, each in message["found"].items()}


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
