"""Client of the audit service (httpx). Errors arrive as the classes of :mod:`spinal.errors`, by their code."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

from spinal.documents.diff import TraceDiff
from spinal.documents.trace import Trace
from spinal.errors import DeadlineExceeded, InternalError, ServiceUnreachable, SpinalError, all_errors

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
RETRY_STATUS = frozenset({429, 502, 503, 504})
JsonObject = dict[str, Any]


class Client:
    """``with Client("http://host:8000", api_key="spk_...") as client: ...``

    A request that cannot be answered (no connection, 429, 502-504) is sent again for up to ``patience``
    seconds; submissions carry an Idempotency-Key, so that sending one again never audits twice.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        patience: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout, transport=transport)
        self._patience = patience

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # audits

    def submit(
        self,
        candidate: str,
        reference: str | None = None,
        *,
        control: str | None = None,
        prompt_set: str | None = None,
        profile: JsonObject | None = None,
        labels: dict[str, str] | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> JsonObject:
        """Submit an audit; returns it as accepted."""
        body = {
            "candidate": candidate,
            "reference": reference,
            "control": control,
            "prompt_set": prompt_set,
            "profile": profile,
            "labels": labels,
            "priority": priority,
        }
        sent = {name: value for name, value in body.items() if value is not None}
        headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
        return self._json("POST", "/v1/audits", json=sent, headers=headers)

    def audit(self, audit_id: str, *, wait: float = 0.0) -> JsonObject:
        """One audit; with ``wait`` the answer comes when it has ended or after so many seconds."""
        return self._json("GET", f"/v1/audits/{audit_id}", params={"wait": wait}, timeout=wait + 30.0)

    def wait(
        self,
        audit_id: str,
        *,
        timeout: float = 3600.0,
        every: float = 20.0,
        on_progress: Callable[[JsonObject], None] | None = None,
    ) -> JsonObject:
        """Wait for the end of an audit; raises DeadlineExceeded after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            found = self.audit(audit_id, wait=max(0.0, min(every, left)))
            if on_progress is not None:
                on_progress(found)
            if found["state"] in TERMINAL:
                return found
            if left <= 0:
                raise DeadlineExceeded(
                    f"audit {audit_id} was still {found['state']} after {timeout:.0f} s",
                    hint="it goes on; wait again, or cancel it",
                )

    def cancel(self, audit_id: str) -> JsonObject:
        return self._json("POST", f"/v1/audits/{audit_id}/cancel")

    def audits(self, **filters: Any) -> Iterator[JsonObject]:
        """All audits that match, newest first, page by page."""
        return self._pages("/v1/audits", filters)

    def scores(self, audit_id: str) -> JsonObject:
        return self._json("GET", f"/v1/audits/{audit_id}/scores")

    def report(self, audit_id: str, format: str = "json") -> str:
        return self._send("GET", f"/v1/audits/{audit_id}/report", params={"format": format}).text

    # results and catalog

    def trace(self, digest: str) -> Trace:
        return Trace.model_validate(self._json("GET", f"/v1/traces/{digest}"))

    def traces(self, **filters: Any) -> Iterator[JsonObject]:
        return self._pages("/v1/traces", filters)

    def diff(self, reference: str, candidate: str) -> TraceDiff:
        """Layer-wise differences of two traces by digest."""
        return TraceDiff.model_validate(self._json("GET", f"/v1/diffs/{reference}...{candidate}")["diff"])

    def register_model(self, name: str, reference: str, *, description: str | None = None) -> JsonObject:
        body = {"name": name, "reference": reference, "description": description}
        return self._json("POST", "/v1/models", json=body)

    def models(self) -> Iterator[JsonObject]:
        return self._pages("/v1/models", {})

    def store_prompt_set(self, prompts: list[str], *, name: str | None = None) -> JsonObject:
        body = {"name": name, "prompts": [{"prompt": prompt} for prompt in prompts]}
        return self._json("POST", "/v1/prompt-sets", json=body)

    def prompt_sets(self) -> list[JsonObject]:
        found: list[JsonObject] = self._json("GET", "/v1/prompt-sets")["items"]
        return found

    def ready(self) -> bool:
        """Whether the service can take audits now."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    # plumbing

    def _pages(self, path: str, filters: JsonObject) -> Iterator[JsonObject]:
        cursor: str | None = None
        while True:
            params = {**filters, **({"cursor": cursor} if cursor else {})}
            page = self._json("GET", path, params=params)
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def _json(self, method: str, path: str, **options: Any) -> JsonObject:
        found: JsonObject = self._send(method, path, **options).json()
        return found

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        deadline = time.monotonic() + self._patience
        pause = 0.25
        while True:
            response, failure = None, ""
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                failure = f"{type(error).__name__}: {error}"
            if response is not None and not _passing(response):
                return _checked(response)
            if response is not None:
                pause = max(pause, _retry_after(response))
            if time.monotonic() + pause > deadline:
                if response is not None:
                    return _checked(response)
                raise ServiceUnreachable(
                    f"{self._http.base_url} did not answer ({failure})",
                    hint="check the address and that the service runs",
                )
            time.sleep(pause)
            pause = min(pause * 2, 5.0)


def _passing(response: httpx.Response) -> bool:
    """Whether the service says that the same request may succeed soon; of the conflicts only one in flight does."""
    return response.status_code in RETRY_STATUS or (response.status_code == 409 and "Retry-After" in response.headers)


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), 30.0) if value.isdigit() else 0.0


def _checked(response: httpx.Response) -> httpx.Response:
    """The response, or the error it carries."""
    if response.is_success:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        raise InternalError(
            f"{response.request.url} answered {response.status_code} without a problem object",
            hint="is this address the audit service?",
        )
    raise error_of(problem)


def error_of(problem: JsonObject) -> SpinalError:
    """The error class behind a problem object; an unknown code becomes InternalError with that code in ``extra``."""
    known = all_errors().get(problem["code"])
    extra = {
        name: value
        for name, value in problem.items()
        if name not in ("type", "title", "status", "code", "detail", "hint")
    }
    detail, hint = str(problem.get("detail", "")), problem.get("hint")
    if known is None:
        return InternalError(detail, hint=hint, unknown_code=problem["code"], **extra)
    return known(detail, hint=hint, **extra)
