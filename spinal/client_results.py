"""What :class:`spinal.Client` does with stored traces and their differences."""

from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from spinal.connection import Calls, JsonObject, not_understood
from spinal.documents.diff import TraceDiff
from spinal.documents.trace import Trace

Document = TypeVar("Document", bound=BaseModel)


class ResultCalls(Calls):
    """Results of the service."""

    def trace(self, digest: str) -> Trace:
        """A stored trace by its digest.

        Examples
        --------
        >>> client.trace(reference_digest)  # doctest: +ELLIPSIS
        <Trace local:sft, ... blocks, ... prompts, digest ...>
        """
        path = f"/v1/traces/{quote(digest, safe='')}"
        return document_of(Trace, path, self._json("GET", path))

    def traces(self, **filters: Any) -> Iterator[JsonObject]:
        """Heads of all stored traces that match, newest first, page by page.

        Examples
        --------
        >>> [head["source"] for head in client.traces()]
        ['local:sft']
        """
        return self._pages("/v1/traces", filters)

    def diff(self, reference: str, candidate: str) -> TraceDiff:
        """Layer-wise point differences of two stored traces by their digests.

        Examples
        --------
        >>> client.diff(reference_digest, candidate_digest)  # doctest: +ELLIPSIS
        <TraceDiff ... → ..., ... blocks>
        """
        path = f"/v1/diffs/{quote(reference, safe='')}...{quote(candidate, safe='')}"
        return document_of(TraceDiff, path, self._json("GET", path, needs=("diff",))["diff"])

    def attestation(self, audit_id: str, *, predicate: str = "test-result", format: str = "dsse") -> JsonObject:
        """A signed statement about an audit: ``test-result`` says what was found, ``svr`` that it passed.

        Raises
        ------
        VerdictNotPass, PassRestsOnWaiver
            There is no ``svr`` of an audit that did not pass, or that passes by a waiver.

        Examples
        --------
        >>> client.attestation(audit_id)["payloadType"]
        'application/vnd.in-toto+json'
        """
        path = f"/v1/audits/{quote(audit_id, safe='')}/attestation"
        needs = ("payload", "signatures") if format == "dsse" else ("dsseEnvelope",)
        return self._json("GET", path, params={"predicate": predicate, "format": format}, needs=needs)


def document_of(kind: type[Document], path: str, content: JsonObject) -> Document:
    """The document that was answered; raises AnswerNotUnderstood for what is none."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise not_understood(path, f"is no {kind.__name__} ({error.error_count()} members wrong)") from error
