"""Answers that need nothing more of the framework: made where a request's thread is, sent as they are."""

from collections.abc import Mapping
from hashlib import sha256

from fastapi import Response
from pydantic import BaseModel

from spinal.text import visible_json


def answer(shown: BaseModel, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """``shown`` as JSON. It is valid already: the framework would validate and copy it once more. Names and labels are
    shown by terminals, too."""
    body = visible_json(shown.model_dump_json(by_alias=True))
    return Response(body, status, headers=headers, media_type="application/json")


def tagged(response: Response) -> Response:
    """The response with an ``ETag`` of its body."""
    response.headers["ETag"] = f'"{sha256(response.body).hexdigest()[:32]}"'
    return response


def is_known(etag: str, if_none_match: str | None) -> bool:
    """Whether a caller who sent ``If-None-Match`` has what ``etag`` names."""
    return if_none_match is not None and etag in [part.strip() for part in if_none_match.split(",")]


def unless_known(response: Response, if_none_match: str | None) -> Response:
    """A tagged response, or 304 for a caller who has it."""
    if not is_known(response.headers["ETag"], if_none_match):
        return response
    kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
    return Response(status_code=304, headers=kept)
