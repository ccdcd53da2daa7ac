"""Client of the audit service (httpx). Errors arrive as the classes of :mod:`spinal.errors`, by their code."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx

from spinal.client_models import ModelCalls
from spinal.client_policies import PolicyCalls
from spinal.client_prompts import PromptCalls
from spinal.client_results import ResultCalls
from spinal.client_series import SeriesCalls
from spinal.client_webhooks import WebhookCalls
from spinal.connection import Connection, JsonObject, json_of, not_understood, report_of
from spinal.connection import error_of as error_of
from spinal.errors import AuditStillRunning, ServiceUnreachable

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
AUDIT = ("id", "state", "verdict", "progress")
LINK = ("url", "expires_at")
"""Members that every audit has, by which its description is known."""
LAST_S = 0.5
"""Seconds before its deadline in which a wait asks no more: an answer takes a moment, too."""


class Client(ModelCalls, PolicyCalls, PromptCalls, ResultCalls, SeriesCalls, WebhookCalls):
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
    on_away : callable, optional
        Called with the cause when a request could not be answered and is about to be sent again, once a request.

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
        on_away: Callable[[str], None] | None = None,
    ) -> None:
        self._connection = Connection(
            base_url, api_key, timeout=timeout, patience=patience, transport=transport, on_away=on_away
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.http.close()

    @contextmanager
    def trying_for(self, seconds: float) -> Iterator[None]:
        """Inside, what cannot be answered is sent again for so many seconds in all, whatever the patience.

        Examples
        --------
        >>> with client.trying_for(60):
        ...     client.audit(audit_id)["verdict"]
        'pass'
        """
        with self._connection.trying_until(time.monotonic() + seconds):
            yield

    @property
    def base_url(self) -> str:
        """Address of the service, without a slash at its end."""
        return str(self._connection.http.base_url).rstrip("/")

    # audits

    def submit(
        self,
        candidate: str,
        reference: str | None = None,
        *,
        control: str | None = None,
        prompt_set: str | None = None,
        profile: JsonObject | None = None,
        policy: str | None = None,
        signature: str | None = None,
        labels: dict[str, str] | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> JsonObject:
        """Submit an audit of ``candidate`` against ``reference``; returns it as accepted.

        Parameters
        ----------
        candidate, reference, control : str
            Model references, ``local:PATH``, or registered models: ``acme/chat``, ``acme/chat:3``,
            ``acme/chat@champion``. Without a reference only the trace is made.
        prompt_set : str, optional
            Name of a built-in set, or name or digest of a stored one.
        profile : dict, optional
            Name of a profile and the knobs that differ from its defaults, for example
            ``{"name": "spinal/1", "max_tokens": 256}``.
        policy : str, optional
            Name and version, or digest, of the policy that makes the verdict; needs a reference. See
            :meth:`push_policy`.
        signature : str, optional
            The text of ``model.sig`` of a model that was signed in the format of OpenSSF Model Signing, which the
            candidate's files are held to.
        labels : dict of str, optional
            Shown with the audit, and to filter by. Audits with the same label ``name`` are versions of one model.
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
            "policy": policy,
            "signature": signature,
            "labels": labels,
            "priority": priority,
        }
        sent = {name: value for name, value in body.items() if value is not None}
        headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
        return self._json("POST", "/v1/audits", json=sent, headers=headers, needs=AUDIT)

    def audit(self, audit_id: str, *, wait: float = 0.0) -> JsonObject:
        """One audit; with ``wait`` the answer comes when it has ended or after so many seconds.

        Examples
        --------
        >>> client.audit(audit_id)["verdict"]
        'pass'
        """
        longest = wait + self._connection.timeout
        return self._json("GET", _of(audit_id), params={"wait": wait}, timeout=longest, needs=AUDIT)

    def wait(
        self,
        audit_id: str,
        *,
        timeout: float = 3600.0,
        every: float = 20.0,
        on_progress: Callable[[JsonObject], None] | None = None,
    ) -> JsonObject:
        """Wait for the end of an audit, for ``timeout`` seconds at most. A service that is away is waited for, too.

        ``on_progress`` is called with the audit at least every ``every`` seconds.

        Raises
        ------
        AuditStillRunning
            The audit goes on (``state`` in ``extra``); a DeadlineExceeded.
        ServiceUnreachable
            The service was away when the time was over (``audit_id`` in ``extra``).

        Examples
        --------
        >>> client.wait(audit_id, timeout=600, on_progress=lambda audit: print(audit["progress"]["fraction"]))["state"]
        1.0
        'SUCCEEDED'
        """
        deadline = time.monotonic() + timeout
        while True:
            began = time.monotonic()
            asked = max(0.0, min(every, deadline - began - LAST_S))
            try:
                with self._connection.trying_until(deadline):
                    found = self.audit(audit_id, wait=asked)
            except ServiceUnreachable as error:
                error.extra.setdefault("audit_id", audit_id)
                raise
            if on_progress is not None:
                on_progress(found)
            if found["state"] in TERMINAL:
                return found
            left = deadline - time.monotonic()
            if left <= LAST_S:
                raise AuditStillRunning(
                    f"audit {audit_id} was still {found['state']} after {timeout:g} s",
                    hint=f"it goes on: wait again with `spinal wait {audit_id}`, or `spinal cancel {audit_id}`",
                    audit_id=audit_id,
                    state=found["state"],
                )
            # A service that does not hold the answer back is not asked in a loop.
            time.sleep(max(0.0, min(asked, 1.0, left) - (time.monotonic() - began)))

    def cancel(self, audit_id: str) -> JsonObject:
        """Give up an audit; one that has ended stays as it is.

        Examples
        --------
        >>> client.cancel(audit_id)["state"]
        'CANCELLED'
        """
        return self._json("POST", _of(audit_id, "/cancel"), needs=AUDIT)

    def link(self, audit_id: str, *, expires_in: int = 7 * 86400) -> JsonObject:
        """A link that opens the report of an audit in a browser, without a key, for so many seconds (90 days at most):
        ``url`` and ``expires_at``. Whoever has it reads the report.

        Examples
        --------
        >>> client.link(audit_id)["url"]
        'https://audits.example/r/AQEAAAGi...'
        """
        found = self._json("POST", _of(audit_id, "/links"), json={"expires_in": expires_in}, needs=LINK)
        if str(found["url"]).startswith("/"):
            # The service does not know under which address it is reached; we do.
            base = urlsplit(self.base_url)
            found["url"] = f"{base.scheme}://{base.netloc}{found['url']}"
        return found

    def audits(self, **filters: Any) -> Iterator[JsonObject]:
        """All audits that match, newest first, page by page.

        Examples
        --------
        >>> [audit["candidate"] for audit in client.audits(state="SUCCEEDED")]
        ['local:dpo-short']
        """
        return self._pages("/v1/audits", filters)

    def audits_page(self, **filters: Any) -> JsonObject:
        """One page of the audits that match: ``items``, newest first, and ``next``, the ``cursor`` of the page behind.

        Examples
        --------
        >>> client.audits_page(limit=1)["items"][0]["candidate"]
        'local:dpo-short'
        """
        return self._json("GET", "/v1/audits", params=filters, needs=("items", "next"))

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
        return self._json("GET", _of(audit_id, "/scores"))

    def report(self, audit_id: str, format: str = "json", *, fail_on: str = "fail") -> str:
        """The report of an audit as text. ``fail_on`` (``"fail"`` or ``"warn"``) is the mildest outcome that
        reports for pipelines call a failure.

        Examples
        --------
        >>> print(client.report(audit_id, "md").splitlines()[0])
        # local:sft → local:dpo-short
        """
        asked = {"format": format} | ({} if fail_on == "fail" else {"fail_on": fail_on})
        sent = self._send("GET", _of(audit_id, "/report"), params=asked)
        return report_of(sent, html=format == "html")

    # the service itself

    def ready(self) -> bool:
        """Whether the service can take audits now.

        Examples
        --------
        >>> client.ready()
        True
        """
        try:
            return self._connection.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    # plumbing

    def _pages(self, path: str, filters: JsonObject) -> Iterator[JsonObject]:
        cursor: str | None = None
        while True:
            params = {**filters, **({"cursor": cursor} if cursor else {})}
            page = self._json("GET", path, params=params, needs=("items", "next"))
            if not isinstance(page["items"], list) or page["next"] == cursor is not None:
                raise not_understood(path, "is no page of a listing")
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def _json(self, method: str, path: str, *, needs: Sequence[str] = (), **options: Any) -> JsonObject:
        """The JSON object answered; raises AnswerNotUnderstood for what is none, or lacks a member that it needs."""
        return json_of(self._send(method, path, **options), needs)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._connection.send(method, path, **options)


def _of(audit_id: str, what: str = "") -> str:
    return f"/v1/audits/{quote(audit_id, safe='')}{what}"
