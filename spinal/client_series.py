"""What :class:`spinal.Client` does with series of checkpoints."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from spinal.client_results import document_of
from spinal.connection import Calls, Connection, JsonObject
from spinal.documents.series import Series
from spinal.errors import SeriesStillRunning, ServiceUnreachable

SERIES = ("id", "state", "members", "status")
"""Members that every series has, by which its description is known."""
MOST_AT_ONCE = 100
"""Members that the service takes with one request."""
LAST_S = 0.5
"""Seconds before its deadline in which a wait asks no more: an answer takes a moment, too."""
Members = Mapping[int, str] | Iterable[tuple[int, str]]
"""Step and model reference of each member."""


class SeriesCalls(Calls):
    """Series of the service: the checkpoints of one training run, each an audit of its own."""

    _connection: Connection

    def create_series(
        self,
        reference: str,
        members: Members = (),
        *,
        folder: str | None = None,
        description: str | None = None,
        control: str | None = None,
        prompt_set: str | None = None,
        profile: JsonObject | None = None,
        policy: str | None = None,
        settings: JsonObject | None = None,
        labels: dict[str, str] | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> JsonObject:
        """Begin a series against ``reference``; returns it as accepted.

        Parameters
        ----------
        reference : str
            Model reference that every member is compared with, ``local:PATH`` or a registered name.
        members : mapping or pairs of int and str, optional
            Step and model reference of the first members, 100 at most; others may follow.
        folder : str, optional
            Instead of members: a folder of checkpoints on the service's host whose names end with their steps, or a
            pattern such as ``local:runs/a/checkpoint-*``.
        settings : dict, optional
            How the series is judged: ``{"plateau_from_step": 1000}``.
        description, control, prompt_set, profile, policy, labels, priority
            As for :meth:`submit`; all members share them.
        idempotency_key : str, optional
            Sending the same body under the same key again gives the same series.

        Returns
        -------
        dict
            The series as the service describes it (``SeriesOut`` of openapi.yaml).

        Examples
        --------
        >>> client.create_series("local:sft", {100: "local:run/checkpoint-100"}, labels={"run": "a"})["state"]
        'OPEN'
        """
        body = {
            "reference": reference,
            "members": _sent(members) or None,
            "folder": folder,
            "description": description,
            "control": control,
            "prompt_set": prompt_set,
            "profile": profile,
            "policy": policy,
            "settings": settings,
            "labels": labels,
            "priority": priority,
        }
        sent = {name: value for name, value in body.items() if value is not None}
        headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
        return self._json("POST", "/v1/series", json=sent, headers=headers, needs=SERIES)

    def add_members(self, series_id: str, members: Members) -> list[JsonObject]:
        """Append checkpoints, in any order and as many as there are; returns each with the id of its ``audit``.

        The same step and model again is the same member. Raises SeriesStepTaken where a step stands for another model,
        and SeriesClosed.

        Examples
        --------
        >>> [member["step"] for member in client.add_members(series_id, {200: "local:run/checkpoint-200"})]
        [200]
        """
        sent = _sent(members)
        added: list[JsonObject] = []
        for begin in range(0, len(sent), MOST_AT_ONCE):
            added += self._append(series_id, {"members": sent[begin : begin + MOST_AT_ONCE]})
        return added

    def add_folder(self, series_id: str, folder: str) -> list[JsonObject]:
        """Append every checkpoint that ``folder`` matches on the service's host, ``local:runs/a/checkpoint-*``; returns
        each with the id of its ``audit``. Raises SeriesFolderInvalid where none matches, or a name gives no step.

        Examples
        --------
        >>> [member["step"] for member in client.add_folder(series_id, "local:run/checkpoint-*")]
        [200]
        """
        return self._append(series_id, {"folder": folder})

    def _append(self, series_id: str, body: JsonObject) -> list[JsonObject]:
        found: list[JsonObject] = self._json("POST", _of(series_id, "/members"), json=body, needs=("items",))["items"]
        return found

    def series(self, series_id: str, *, wait: float = 0.0) -> JsonObject:
        """One series; with ``wait`` the answer comes when no member is going any more or after so many seconds.

        Examples
        --------
        >>> client.series(series_id)["status"]
        'healthy'
        """
        longest = wait + self._connection.timeout
        return self._json("GET", _of(series_id), params={"wait": wait}, timeout=longest, needs=SERIES)

    def list_series(self, **filters: Any) -> Iterator[JsonObject]:
        """All series that match (``status``, ``reference``, ``closed``, ``label``), newest first, page by page.

        Examples
        --------
        >>> [series["reference"] for series in client.list_series(status="healthy")]
        ['local:sft']
        """
        return self._pages("/v1/series", filters)

    def close_series(self, series_id: str) -> JsonObject:
        """Say that no member comes any more; a closed one stays as it is.

        Examples
        --------
        >>> client.close_series(series_id)["state"]
        'CLOSED'
        """
        return self._json("POST", _of(series_id, "/close"), needs=SERIES)

    def cancel_series(self, series_id: str) -> JsonObject:
        """Close a series and give up its members that are going; those that have ended stay.

        Examples
        --------
        >>> client.cancel_series(series_id)["state"]
        'CANCELLED'
        """
        return self._json("POST", _of(series_id, "/cancel"), needs=SERIES)

    def wait_series(
        self,
        series_id: str,
        *,
        closed: bool = False,
        timeout: float = 3600.0,
        every: float = 20.0,
        on_progress: Callable[[JsonObject], None] | None = None,
    ) -> JsonObject:
        """Wait until every member that there is has ended, and with ``closed`` until no other can come, for ``timeout``
        seconds at most. A service that is away is waited for, too.

        ``on_progress`` is called with the series at least every ``every`` seconds.

        Raises
        ------
        SeriesStillRunning
            Members go on, or others may come; a DeadlineExceeded.
        ServiceUnreachable
            The service was away when the time was over (``series_id`` in ``extra``).

        Examples
        --------
        >>> client.wait_series(series_id, timeout=600)["members"]["measured"]
        5
        """
        deadline = time.monotonic() + timeout
        while True:
            began = time.monotonic()
            asked = max(0.0, min(every, deadline - began - LAST_S))
            try:
                with self._connection.trying_until(deadline):
                    found = self.series(series_id, wait=asked)
            except ServiceUnreachable as error:
                error.extra.setdefault("series_id", series_id)
                raise
            if on_progress is not None:
                on_progress(found)
            waiting = found["members"]["waiting"]
            if not waiting and (found["state"] != "OPEN" or not closed):
                return found
            left = deadline - time.monotonic()
            if left <= LAST_S:
                raise SeriesStillRunning(
                    f"series {series_id} had {waiting} members that go on after {timeout:g} s"
                    if waiting
                    else f"series {series_id} was still open after {timeout:g} s",
                    hint="it goes on: wait again, close it when no member comes any more, or cancel it",
                    series_id=series_id,
                    state=found["state"],
                )
            # A service that does not hold the answer back is not asked in a loop.
            time.sleep(max(0.0, min(asked, 1.0, left) - (time.monotonic() - began)))

    def series_document(self, series_id: str) -> Series:
        """What is known of the run by now: the document ``spinal.series/1``.

        Examples
        --------
        >>> client.series_document(series_id).status
        'healthy'
        """
        path = _of(series_id, "/document")
        return document_of(Series, path, self._json("GET", path))


def _sent(members: Members) -> list[JsonObject]:
    pairs = members.items() if isinstance(members, Mapping) else members
    return [{"step": step, "model": model} for step, model in pairs]


def _of(series_id: str, what: str = "") -> str:
    return f"/v1/series/{quote(series_id, safe='')}{what}"
