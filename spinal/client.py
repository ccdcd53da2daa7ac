"""Client of the audit service (httpx). Errors arrive as the classes of :mod:`spinal.errors`, by their code."""

import time
from collections.abc import Callable, Iterator, Sequence
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
    """The audit service over HTTP.

    A request that cannot be answered (no connection, 429, 502-504) is sent again for up to ``patience``
    seconds; submissions carry an Idempotency-Key, so that sending one again never audits twice.

    Parameters
    ----------
    base_url : str
        Address of the service, for example ``"http://127.0.0.1:8000"``.
    api_key : str, optional
        Key of the caller (``spk_...``); not needed where the service asks for none.
    timeout : float, default 30.0
        Seconds that one answer may take.
    patience : float, default 30.0
        Seconds for which a request that cannot be answered is sent again.
    transport : httpx.BaseTransport, optional
        How requests travel; for tests.

    Raises
    ------
    SpinalError
        Every method raises the error that the service names by its code, and ServiceUnreachable where none answers.

    Examples
    --------
    ``server`` and ``key`` stand for the address and a key of your service.

    >>> from spinal import Client
    >>> with Client(server, api_key=key) as client:
    ...     audit = client.submit("local:dpo-short", "local:sft")
    ...     done = client.wait(audit["id"], timeout=600)
    >>> done["state"], done["verdict"]
    ('SUCCEEDED', 'pass')
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

    @property
    def base_url(self) -> str:
        """Address of the service, without a slash at its end."""
        return str(self._http.base_url).rstrip("/")

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
        """Submit an audit of ``candidate`` against ``reference``; returns it as accepted.

        Parameters
        ----------
        candidate, reference, control : str
            Model references, ``local:PATH`` or a registered name. Without a reference only the trace is made.
        prompt_set : str, optional
            Name of a built-in set, or digest of a stored one.
        profile : dict, optional
            Name of a profile and the knobs that differ from its defaults, for example
            ``{"name": "spinal/1", "max_tokens": 256}``.
        labels : dict of str, optional
            Shown with the audit, and to filter by.
        priority : int, optional
            -10 to 10; higher goes first.
        idempotency_key : str, optional
            Sending the same body under the same key again gives the same audit.

        Returns
        -------
        dict
            The audit as the service describes it (``AuditOut`` of openapi.yaml).

        Examples
        --------
        >>> client.submit("local:dpo-short", "local:sft", labels={"release": "2026-11"})["state"]
        'QUEUED'
        """
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
        """One audit; with ``wait`` the answer comes when it has ended or after so many seconds.

        Examples
        --------
        >>> client.audit(audit_id)["verdict"]
        'pass'
        """
        return self._json("GET", f"/v1/audits/{audit_id}", params={"wait": wait}, timeout=wait + 30.0)

    def wait(
        self,
        audit_id: str,
        *,
        timeout: float = 3600.0,
        every: float = 20.0,
        on_progress: Callable[[JsonObject], None] | None = None,
    ) -> JsonObject:
        """Wait for the end of an audit; raises DeadlineExceeded after ``timeout`` seconds.

        ``on_progress`` is called with the audit at least every ``every`` seconds.

        Examples
        --------
        >>> client.wait(audit_id, timeout=600, on_progress=lambda audit: print(audit["progress"]["fraction"]))["state"]
        1.0
        'SUCCEEDED'
        """
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
        """Give up an audit; one that has ended stays as it is.

        Examples
        --------
        >>> client.cancel(audit_id)["state"]
        'CANCELLED'
        """
        return self._json("POST", f"/v1/audits/{audit_id}/cancel")

    def audits(self, **filters: Any) -> Iterator[JsonObject]:
        """All audits that match, newest first, page by page.

        Examples
        --------
        >>> [audit["candidate"] for audit in client.audits(state="SUCCEEDED")]
        ['local:dpo-short']
        """
        return self._pages("/v1/audits", filters)

    def scores(self, audit_id: str) -> JsonObject:
        """What an audit with a reference found, without the layers.

        Returns
        -------
        dict
            ``accounts`` say what carries the change, ``localization`` what computes something else, ``statements`` both
            in words; ``damage``, ``nulls`` and ``verdict`` whether the model still works (``ScoresOut`` of
            openapi.yaml).

        Examples
        --------
        >>> found = client.scores(audit_id)
        >>> found["verdict"]["outcome"], [statement["text"] for statement in found["statements"]]
        ('pass', ['the preference margin is carried by blocks 1-8'])
        """
        return self._json("GET", f"/v1/audits/{audit_id}/scores")

    def report(self, audit_id: str, format: str = "json", *, fail_on: str = "fail") -> str:
        """The report of an audit as text. ``fail_on`` (``"fail"`` or ``"warn"``) is the mildest outcome that
        reports for pipelines call a failure.

        Examples
        --------
        >>> print(client.report(audit_id, "md").splitlines()[0])
        # local:sft → local:dpo-short
        """
        asked = {"format": format} | ({} if fail_on == "fail" else {"fail_on": fail_on})
        return self._send("GET", f"/v1/audits/{audit_id}/report", params=asked).text

    # results and catalog

    def trace(self, digest: str) -> Trace:
        """A stored trace by its digest.

        Examples
        --------
        >>> client.trace(reference_digest)  # doctest: +ELLIPSIS
        <Trace local:sft, ... blocks, ... prompts, digest ...>
        """
        return Trace.model_validate(self._json("GET", f"/v1/traces/{digest}"))

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
        return TraceDiff.model_validate(self._json("GET", f"/v1/diffs/{reference}...{candidate}")["diff"])

    def register_model(self, name: str, reference: str, *, description: str | None = None) -> JsonObject:
        """Give a model reference a name.

        Examples
        --------
        >>> client.register_model("base", "local:sft")["name"]
        'base'
        """
        body = {"name": name, "reference": reference, "description": description}
        return self._json("POST", "/v1/models", json=body)

    def models(self) -> Iterator[JsonObject]:
        """All registered models, page by page.

        Examples
        --------
        >>> [model["reference"] for model in client.models()]
        ['local:sft']
        """
        return self._pages("/v1/models", {})

    def store_prompt_set(
        self, prompts: Sequence[str | list[dict[str, str]] | JsonObject], *, name: str | None = None
    ) -> JsonObject:
        """Store a prompt set of texts, of messages of chats, or of records; its digest is what :meth:`submit` takes.

        A record is ``{"prompt": ...}`` or ``{"messages": ...}`` with what else is known of it: its own answer
        (``continuation``), an answer that was not preferred to that (``rejected``), openings of an answer that refuses
        (``refusal``), and its ``category``.

        Examples
        --------
        >>> client.store_prompt_set(["How do I reset a password?"], name="one")["count"]
        1
        """
        body = {"name": name, "prompts": [_prompt_in(prompt) for prompt in prompts]}
        return self._json("POST", "/v1/prompt-sets", json=body)

    def prompt_sets(self) -> list[JsonObject]:
        """All prompt sets, the built-in ones included.

        Examples
        --------
        >>> [prompts["name"] for prompts in client.prompt_sets()]
        ['hh-harmless-512']
        """
        found: list[JsonObject] = self._json("GET", "/v1/prompt-sets")["items"]
        return found

    def ready(self) -> bool:
        """Whether the service can take audits now.

        Examples
        --------
        >>> client.ready()
        True
        """
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


def _prompt_in(prompt: str | list[dict[str, str]] | JsonObject) -> JsonObject:
    if isinstance(prompt, dict):
        return prompt
    return {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}


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
