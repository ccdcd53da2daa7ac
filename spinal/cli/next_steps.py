"""What to do next on the command line about an error whose hint is for somebody else: one that came over HTTP, for who
writes requests; one of a model that lives elsewhere, for the operator of a service."""

import re

from spinal.errors import SpinalError

NEXT_STEPS = {
    "audit_failed": "`spinal show AUDIT` says why",
    "audit_has_no_scores": "`spinal audit CANDIDATE --reference REFERENCE` compares",
    "audit_not_finished": "`spinal wait AUDIT`",
    "audit_not_found": "`spinal list` shows the audits of this key",
    "body_malformed": "report it with the command line",
    "body_too_large": "send less: fewer prompts, or shorter ones",
    "database_unavailable": "try again in a few seconds",
    "forbidden": "take a key with that scope; an operator makes it: `spinal keys create --tenant T --scope write`",
    "idempotency_in_flight": "try again in a second",
    "idempotency_key_reused": "try again: each call takes a key of its own",
    "media_type_unsupported": "report it with the command line",
    "model_access_refused": "whoever runs the service gives it credentials that open the model; a gated one has to be "
    "asked for at its hub, too",
    "method_not_allowed": "check that the service is of this release, and that --server names it",
    "model_alias_not_found": "`spinal models show NAME` shows the aliases",
    "model_aliases_full": "`spinal models remove NAME@ALIAS` takes back one that nobody uses",
    "model_name_taken": "`spinal models register NAME:VERSION REFERENCE` adds a version; or choose another name",
    "model_store_full": "try again later; whoever runs the service gives it more room (SPINAL_MODEL_STORE_BYTES)",
    "model_version_in_use": "`spinal models alias NAME@ALIAS VERSION` moves its alias; "
    "`spinal models remove NAME` takes back the whole name",
    "model_version_not_found": "`spinal models versions NAME` shows those there are",
    "model_version_taken": "register it as another version: what a version means never changes",
    "not_ready": "try again later; whoever runs the service finds why with `spinal doctor`",
    "registered_model_not_found": "`spinal models list` shows what is registered",
    "route_not_found": "check that the service is of this release, and that --server names it",
    "request_too_slow": "send it again; a slow connection may need smaller requests",
    "source_refused": "name a model that this service may read; whoever runs it lists them (SPINAL_MODEL_SOURCES)",
    "source_unavailable": "try again in a minute",
    "trace_not_found": "`spinal list` shows the audits, and `spinal show AUDIT` their traces",
    "unauthorized": "set SPINAL_API_KEY, or give --api-key; an operator makes keys: `spinal keys create --tenant T`",
    "prompt_set_not_found": "`spinal prompts list` shows what is stored; `spinal prompts push FILE` stores one",
    "delivery_not_found": "`spinal webhooks deliveries WEBHOOK` shows those there are",
    "webhook_disabled": "`spinal webhooks enable WEBHOOK` enables it",
    "webhook_limit_reached": "`spinal webhooks delete WEBHOOK` deletes one that nobody needs",
    "webhook_not_found": "`spinal webhooks list` shows those there are",
    "policy_not_found": "`spinal policies list` shows what is stored; `spinal policies push FILE` stores one",
}
"""Code -> the next step here. Errors with other codes have hints that hold everywhere."""
HERE = {
    "model_access_refused": "give credentials that open it in the file of --sources; a gated model has to be asked for "
    "at its hub, too",
    "model_store_full": "make room where it is kept: $XDG_CACHE_HOME or ~/.cache, without the cache $TMPDIR",
    "source_refused": "say in the file of --sources that it may be read (docs/sources.md)",
    "source_unavailable": "check the connection, and try again",
}
"""Code -> the next step of somebody who measures on this machine, where an error has none, or one that says what an
operator does: on a command line that is the caller."""
OPERATOR = re.compile(r"\boperator\b")
UNREGISTERED = "`spinal models list` shows what is registered; `spinal models register NAME REFERENCE` adds a name"
FOR_REQUESTS = re.compile(
    r"\b(GET|POST|PUT|PATCH|DELETE)\s+(it\s+)?(to\s+)?/|/v1/|Authorization|Content-Type|openapi|Idempotency-Key"
)
"""What only somebody who writes requests can do."""


def next_step(error: SpinalError) -> str | None:
    """The hint to show on the command line."""
    if not error.from_service:
        asks_others = error.hint is None or OPERATOR.search(error.hint)
        return HERE.get(error.code, error.hint) if asks_others else error.hint
    if error.code == "model_not_found" and "registered" in error.detail:
        return UNREGISTERED
    if error.code in NEXT_STEPS:
        return NEXT_STEPS[error.code]
    return None if FOR_REQUESTS.search(error.hint or "") else error.hint
