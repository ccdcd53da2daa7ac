"""What every noun that has a report says of its formats: one route with ``?format=``, and one for each format, whose
answer has one type, so that generated clients return it."""

from typing import Annotated, Any, Literal

from fastapi import Query, Response

from service.http.addresses import shared
from service.platform.links import report_path
from spinal.report.formats.format import Format, Reader
from spinal.report.reported import Reported

FailOn = Annotated[
    Literal["fail", "warn"], Query(description="The mildest outcome that reports for pipelines call a failure")
]


def media_type_of(made: Format) -> str:
    """Its media type without parameters."""
    return made.media_type.partition(";")[0]


def operation_of(noun: str, made: Format) -> str:
    """The operation id of its route: ``getReport``, ``gitlab-metrics`` -> ``getReportGitlabMetrics``."""
    return noun + "".join(part.capitalize() for part in made.name.split("-"))


def content_of(made: Format) -> dict[str, Any]:
    """What the contract says of a format but for JSON, whose document has a schema."""
    kind = media_type_of(made)
    return {kind: {"schema": {} if kind.endswith("json") else {"type": "string"}}}


def described(made: Format, document: Any, errors: dict[int | str, dict[str, Any]]) -> dict[str, Any]:
    """What the route of one format says of its answers; ``document`` is the type of what JSON holds."""
    said = {"summary": f"Get the report as {made.name}", "methods": ["GET"]}
    if made.name == "json":
        return {**said, "response_model": document, "responses": errors}
    answers = {200: {"description": "The report", "content": content_of(made)}, **errors}
    return {**said, "response_class": Response, "responses": answers}


def written(document: Reported, made: Format, reader: Reader, headers: dict[str, str]) -> Response:
    """A document in a format, as a browser may be shown it."""
    safe = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    text = made.written(document, reader)
    return Response(text, media_type=made.media_type, headers=headers | safe | dict(made.headers))


def page_of(noun: str, subject: object) -> str:
    """The address at which a browser shows the report of one of ``audits`` or ``series``, to whoever is signed in."""
    return shared(report_path(noun, subject))
