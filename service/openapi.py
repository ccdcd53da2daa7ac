"""What the contract says beyond the routes: tables whose entries are known only when it is written.

A source, a locator, a rule, a format, a kind of run: each is added in one place, and named here by reading that place.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.models.names import FORMS
from spinal.analysis.locators import LOCATORS
from spinal.checkpoints.sources import reference_forms
from spinal.documents.policy import Policy
from spinal.policy.decide import POLICY
from spinal.policy.shipped import default_policy
from spinal.report.formats import FORMATS

JsonObject = dict[str, Any]


def install(app: FastAPI) -> None:
    """Let the application answer with the completed contract."""

    def openapi() -> JsonObject:
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
        report["responses"]["200"]["content"] = {made.media_type: {} for made in FORMATS.values()}
    return contract


def _add(schema: JsonObject, sentence: str) -> None:
    schema["description"] = f"{schema.get('description', '')}\n\n{sentence}".strip()
