"""What the contract says beyond the routes: tables whose entries are known only when it is written.

A source, a locator, a rule, a format, a kind of run: each is added in one place, and named here by reading that place.
"""

import re
from threading import Lock
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.http.reports import content_of, media_type_of
from service.models.names import FORMS
from spinal.analysis.locators import LOCATORS
from spinal.checkpoints.sources import reference_forms
from spinal.documents.policy import Policy
from spinal.policy.decide import POLICY
from spinal.policy.shipped import default_policy
from spinal.report.formats import FORMATS

JsonObject = dict[str, Any]
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
ALSO_AS = (
    "A generated client gets this as text, whatever the format. Each format has a route with a type of its own "
    "beside it: `/v1/{reported}/report.json`, `.../report.html` and so on."
)
PAGES = [{"$ref": f"#/components/schemas/{name}"} for name in (
    "AuditPage", "TracePage", "ModelPage", "VersionPage", "PolicyPage", "SeriesPageOut",
)]  # fmt: skip
MADE = ("submitAudit", "createSeries", "registerModel")
KEPT = ("registerModelVersion", "storePolicy")
"""Operations whose answer names where what was made is; of these also where it was there already."""
TAGGED = ("getAudit", "getSeries", "getSeriesDocument", "getTrace")
GOING = ("getAudit", "getSeries")
RENAMED = {"Null": "NullDistribution"}
"""Names of schemas that are words of programming languages."""
HEADERS: JsonObject = {
    "X-Request-Id": {
        "description": "The caller's own, where it is usable, or a new one; the log knows the request by it",
        "required": True,
        "schema": {"type": "string"},
    },
    "Location": {"description": "Path of what was made, to follow", "schema": {"type": "string"}},
    "Link": {
        "description": 'The page behind this one: `<path>; rel="next"`; none on the last',
        "schema": {"type": "string"},
    },
    "ETag": {"description": "For If-None-Match", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which to ask again", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "That a key is asked for", "schema": {"type": "string"}},
}


def install(app: FastAPI) -> None:
    """Let the application answer with the completed contract."""

    making = Lock()

    def openapi() -> JsonObject:
        # Half a second of computing: of those who ask for it at once, one does it.
        with making:
            if app.openapi_schema is None:
                app.openapi_schema = _completed(
                    get_openapi(
                        title=app.title,
                        version=app.version,
                        description=app.description,
                        routes=app.routes,
                        separate_input_output_schemas=app.separate_input_output_schemas,
                    )
                )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the framework's own way to extend its contract


def _completed(contract: JsonObject) -> JsonObject:
    schemas = contract["components"]["schemas"]
    for named in ("AuditIn", "SeriesIn", "MemberIn"):
        _add(schemas[named], f"A model reference is {reference_forms()}, or a registered model: {FORMS}.")
    rules = "; ".join(f"`{rule.name}`: {rule.asks}" for rule in default_policy().rules)
    _add(schemas["Verdict"], f"Rules of `{POLICY}`, the worst finding of which is the outcome: {rules}")
    schemas["Comparison"]["properties"]["localization"]["propertyNames"] = {"enum": list(LOCATORS)}
    # Read from YAML, too, which the framework does not do: it knows nothing of the document.
    policy = Policy.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")
    schemas |= policy.pop("$defs", {}) | {"Policy": policy}
    schemas["PolicyOut"]["properties"]["document"] = {"$ref": "#/components/schemas/Policy"}
    for reported in ("audits/{audit_id}", "series/{series_id}"):
        report = contract["paths"][f"/v1/{reported}/report"]["get"]
        format_asked = next(parameter for parameter in report["parameters"] if parameter["name"] == "format")
        format_asked["schema"] = {"enum": list(FORMATS), **format_asked["schema"]}
        # Text first: generated clients take the first type for that of every answer, and each of these is a text.
        made = sorted(FORMATS.values(), key=lambda made: not media_type_of(made).startswith("text/"))
        report["responses"]["200"]["content"] = {kind: said for each in made for kind, said in content_of(each).items()}
        report["description"] += "\n\n" + ALSO_AS.format(reported=reported)
    for path, operations in contract["paths"].items():
        for method, operation in operations.items():
            _say_in_words(operation)
            _say_headers(path, method, operation)
    contract["components"]["headers"] = HEADERS
    contract["servers"] = [{"url": "/"}]
    return _renamed(contract)


def _say_in_words(operation: JsonObject) -> None:
    """A summary that reads as a sentence does, where the route gives none of its own: that of its id."""
    # The framework makes a title of a function's name, as which it is known here.
    words = WORDS.findall(operation["operationId"])
    if operation["summary"].istitle():
        operation["summary"] = " ".join([words[0].capitalize(), *(word.lower() for word in words[1:])])


def _say_headers(path: str, method: str, operation: JsonObject) -> None:
    """What each answer carries besides its body."""
    named = operation["operationId"]
    for status, answer in operation["responses"].items():
        carried = ["X-Request-Id"]
        good = status.startswith("2")
        unchanged = status == "304"
        if status >= "400":
            # The framework adds the type of its own answers beside that of problems.
            answer["content"].pop("application/json", None)
        if good and method == "get" and answer.get("content", {}).get("application/json", {}).get("schema") in PAGES:
            carried.append("Link")
        if (good and named in MADE and status != "200") or (good and named in KEPT):
            carried.append("Location")
        if (good or unchanged) and named in TAGGED:
            carried.append("ETag")
        going = (good or unchanged) and named in GOING
        if status in ("409", "429", "503") or (status == "202" and named == "submitAudit") or going:
            carried.append("Retry-After")
        if status == "401":
            carried.append("WWW-Authenticate")
        answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in carried}


def _renamed(contract: JsonObject) -> JsonObject:
    """The contract with names of schemas that its readers understand."""
    schemas = contract["components"]["schemas"]
    for name, better in RENAMED.items():
        schemas[better] = {**schemas.pop(name), "title": better}
    found: JsonObject = _references_renamed(contract)
    return found


def _references_renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_references_renamed(each) for each in value]
    if not isinstance(value, dict):
        return value
    place, _, name = str(value.get("$ref", "")).rpartition("/")
    if name in RENAMED:
        return {**value, "$ref": f"{place}/{RENAMED[name]}"}
    return {key: _references_renamed(each) for key, each in value.items()}


def _add(schema: JsonObject, sentence: str) -> None:
    schema["description"] = f"{schema.get('description', '')}\n\n{sentence}".strip()
