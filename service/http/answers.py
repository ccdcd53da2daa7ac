"""Answers that need nothing more of the framework: made where a request's thread is, sent as they are."""

from collections.abc import Mapping

from fastapi import Response
from pydantic import BaseModel

from spinal.text import visible_json


def answer(shown: BaseModel, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """``shown`` as JSON. It is valid already: the framework would validate and copy it once more. Names and labels are
    shown by terminals, too."""
    body = visible_json(shown.model_dump_json(by_alias=True))
    return Response(body, status, headers=headers, media_type="application/json")
