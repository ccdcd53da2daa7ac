"""What :class:`spinal.Client` does with webhooks. Whoever receives them has :mod:`spinal.webhooks`."""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from spinal.connection import Calls, JsonObject


class WebhookCalls(Calls):
    """Where the service tells of what has happened."""

    def create_webhook(
        self,
        url: str,
        *,
        events: Sequence[str] = ("*",),
        verdicts: Sequence[str] = (),
        labels: dict[str, str] | None = None,
        models: Sequence[str] = (),
        signature: str = "v1",
        description: str | None = None,
    ) -> JsonObject:
        """Be told of events from now on. The answer holds the ``secret``, which no later one does.

        Parameters
        ----------
        url : str
            Where events are sent, ``https://...``.
        events : sequence of str
            Types (``audit.failed``), groups (``audit.*``), or ``*``.
        verdicts, labels, models
            What an event has to be of: one of these outcomes, all of these labels, one of these models.
        signature : str, default "v1"
            ``v1`` (a shared secret), or ``v1a`` (a key whose public half is in every answer).

        Examples
        --------
        >>> made = client.create_webhook("https://hooks.example.org/spinal", events=["audit.*"], verdicts=["fail"])
        >>> made["secret"]
        'whsec_shown-once'
        """
        filters = {"verdicts": list(verdicts), "labels": labels or {}, "models": list(models)}
        body: JsonObject = {"url": url, "events": list(events), "filters": filters, "signature": signature}
        if description is not None:
            body["description"] = description
        return self._json("POST", "/v1/webhooks", json=body)

    def webhooks(self) -> Iterator[JsonObject]:
        """All webhooks, newest first, page by page.

        Examples
        --------
        >>> [webhook["url"] for webhook in client.webhooks()]
        ['https://hooks.example.org/spinal']
        """
        return self._pages("/v1/webhooks", {})

    def webhook(self, webhook_id: str) -> JsonObject:
        """One webhook.

        Examples
        --------
        >>> client.webhook(webhook_id)["events"]
        ['audit.*']
        """
        return self._json("GET", _of(webhook_id))

    def update_webhook(self, webhook_id: str, **changes: Any) -> JsonObject:
        """Give a webhook another ``url``, ``events``, ``filters`` or ``description``, or disable or enable it
        (``enabled``).

        Examples
        --------
        >>> client.update_webhook(webhook_id, enabled=True)["enabled"]
        True
        """
        return self._json("PATCH", _of(webhook_id), json=changes)

    def rotate_webhook(self, webhook_id: str, *, overlap_s: int = 86_400) -> JsonObject:
        """Another ``secret``, which no later answer holds. For ``overlap_s`` the former one signs, too.

        Examples
        --------
        >>> client.rotate_webhook(webhook_id)["generation"]
        2
        """
        # Named, so that a request that is sent again does not rotate again.
        present = self.webhook(webhook_id)["generation"]
        body = {"overlap_s": overlap_s, "generation": present}
        return self._json("POST", _of(webhook_id, "rotate"), json=body)

    def test_webhook(self, webhook_id: str) -> JsonObject:
        """Have an event ``webhook.test`` sent to it; returns the delivery, whose end :meth:`deliveries` tells.

        Examples
        --------
        >>> client.test_webhook(webhook_id)["state"]
        'QUEUED'
        """
        return self._json("POST", _of(webhook_id, "test"))

    def deliveries(self, webhook_id: str) -> Iterator[JsonObject]:
        """What a webhook was told, with every attempt, newest first, page by page.

        Examples
        --------
        >>> [delivery["state"] for delivery in client.deliveries(webhook_id)]
        ['SUCCEEDED']
        """
        return self._pages(_of(webhook_id, "deliveries"), {})

    def resend(self, webhook_id: str, delivery_id: str) -> JsonObject:
        """Have an event sent again, under the id that it had.

        Examples
        --------
        >>> client.resend(webhook_id, webhook_id)["sent_again"]
        1
        """
        return self._json("POST", f"{_of(webhook_id, 'deliveries')}/{quote(delivery_id, safe='')}/resend")

    def delete_webhook(self, webhook_id: str) -> None:
        """Delete a webhook. What waits for it is not sent any more.

        Examples
        --------
        >>> client.delete_webhook(webhook_id)
        """
        self._send("DELETE", _of(webhook_id))


def _of(webhook_id: str, what: str = "") -> str:
    path = f"/v1/webhooks/{quote(webhook_id, safe='')}"
    return f"{path}/{what}" if what else path
