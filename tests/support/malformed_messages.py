"""What is no doorbell, by name: whole items of a Redis list, and messages that brokers of either kind deliver."""

import base64
import json
from typing import Any, NamedTuple
from uuid import uuid4

SECRET = "hush-hush"
"""In every one of them, and in no log."""
RUN = "0198c5a0-0000-7000-8000-000000000000"
HEADERS = {"task": "spinal.run", "id": "a0e8c5a0-0000-7000-8000-000000000000", "lang": "py"}


class Message(NamedTuple):
    """What a client of AMQP sets."""

    body: bytes
    headers: Any = HEADERS
    content_type: str | None = "application/json"
    content_encoding: str | None = "utf-8"


def body_of(*args: Any, **options: Any) -> bytes:
    return json.dumps([args, options, {}]).encode()


MESSAGES = {
    "no JSON in it": Message(f"not json {SECRET}".encode()),
    "nothing in it": Message(b""),
    "JSON of another shape": Message(json.dumps({SECRET: 1}).encode()),
    "a number": Message(b"1" * 5000),
    "nested for ever": Message(b"[" * 60_000),
    "no arguments": Message(body_of()),
    "too many arguments": Message(body_of(RUN, SECRET)),
    "named arguments": Message(body_of(RUN, secret=SECRET)),
    "an argument that is no id": Message(body_of(SECRET)),
    "an argument of another type": Message(body_of({"secret": SECRET})),
    "another task": Message(body_of(SECRET), HEADERS | {"task": "spinal.other"}),
    "a task that cannot be looked up": Message(body_of(SECRET), HEADERS | {"task": [SECRET]}),
    "no task": Message(body_of(SECRET), {"id": SECRET}),
    "no id": Message(body_of(RUN), {"task": "spinal.run"}),
    "an endless id": Message(body_of(RUN), HEADERS | {"id": SECRET * 100}),
    "no headers": Message(body_of(SECRET), {}),
    "the first protocol": Message(json.dumps({"task": "spinal.run", "id": SECRET, "args": [SECRET]}).encode(), {}),
    "a pickle": Message(b"\x80\x04\x95" + SECRET.encode(), HEADERS, "application/x-python-serialize", "binary"),
    "YAML": Message(f"- {SECRET}".encode(), HEADERS, "application/x-yaml", "utf-8"),
    "no content type": Message(body_of(RUN), HEADERS, None, None),
    "an encoding that is none": Message(body_of(RUN), HEADERS, "application/json", "klingon"),
    "another encoding": Message(SECRET.encode("utf-16"), HEADERS, "application/json", "utf-16"),
    "binary garbage": Message(bytes(range(256)) + SECRET.encode()),
    "what is not compressed": Message(SECRET.encode(), HEADERS | {"compression": "application/x-gzip"}),
    "a compression that is none": Message(SECRET.encode(), HEADERS | {"compression": SECRET}),
    "a huge one": Message(json.dumps([[RUN], {}, {"secret": SECRET * 1_000_000}]).encode()),
}
"""Delivered, thrown away."""
HARMLESS = {
    "headers that mean something else": Message(
        body_of(RUN),
        HEADERS | {"timelimit": [SECRET, -1], "eta": SECRET, "expires": SECRET, "retries": SECRET, "shadow": SECRET},
    )
}
"""A doorbell all the same: nothing else of it is believed."""


def envelope(message: Message, **properties: Any) -> dict[str, Any]:
    """As kombu writes it to Redis."""
    known = {
        "delivery_tag": str(uuid4()),
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "cpu"},
        "priority": 0,
        "body_encoding": "base64",
    }
    return {
        "body": base64.b64encode(message.body).decode(),
        "content-type": message.content_type,
        "content-encoding": message.content_encoding,
        "headers": message.headers,
        "properties": known | properties,
    }


def items() -> dict[str, bytes]:
    """Items of a Redis list."""
    whole = envelope(Message(body_of(RUN)))
    odd: dict[str, Any] = {
        "a list": [SECRET],
        "a text": SECRET,
        "nothing": None,
        "an empty object": {},
        "another object": {"secret": SECRET},
        "a body that is no base64": whole | {"body": f"%{SECRET}"},
        "a body that is no text": whole | {"body": [SECRET]},
        "a body in an unknown coding": envelope(Message(body_of(SECRET)), body_encoding=SECRET),
        "headers that are a list": whole | {"headers": [SECRET]},
        "headers that are a text": whole | {"headers": SECRET},
        "properties that are a list": whole | {"properties": [SECRET]},
        "no properties": {name: value for name, value in whole.items() if name != "properties"},
        "a tag that is an object": envelope(Message(body_of(RUN)), delivery_tag={"secret": SECRET}),
        "a tag that is nothing": envelope(Message(body_of(RUN)), delivery_tag=None),
        "a delivery of another shape": envelope(Message(body_of(RUN)), delivery_info=[SECRET]),
        "a delivery without a key": envelope(Message(body_of(RUN)), delivery_info={"exchange": SECRET}),
    }
    return {
        "text": f"not json {SECRET}".encode(),
        "nothing at all": b"",
        "bytes": bytes(range(256)) + SECRET.encode(),
        "half a message": json.dumps(whole).encode()[:-20],
        "an endless list": b"[" * 200_000,
        **{name: json.dumps(value).encode() for name, value in odd.items()},
        **{name: json.dumps(envelope(message)).encode() for name, message in MESSAGES.items()},
    }
