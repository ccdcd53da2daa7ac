"""/v1/webhooks"""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import URL

from service.database.unit_of_work import Reads
from service.http.addresses import asked, local
from service.http.admission import KeyThenJson
from service.http.answers import answer
from service.http.context import LedgerDep, Reader, SettingsDep, Writer
from service.http.documented import ACCESS, documented
from service.http.pagination import decode_newest, encode, page_answer
from service.settings import Settings
from service.webhooks import verbs
from service.webhooks.schemas import (
    DeliveryOut,
    DeliveryPage,
    RotationIn,
    WebhookChanges,
    WebhookIn,
    WebhookMade,
    WebhookOut,
    WebhookPage,
)
from spinal import errors

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=KeyThenJson)

Cursor = Annotated[str | None, Query(max_length=512)]
Limit = Annotated[int, Query(ge=1, le=200)]
BODY = (errors.BodyMalformed, errors.BodyTooLarge, errors.MediaTypeUnsupported)
FOUND = (*ACCESS, errors.WebhookNotFound)
ONE = (*FOUND, errors.DeliveryNotFound)


@router.post(
    "",
    operation_id="createWebhook",
    status_code=201,
    response_model=WebhookMade,
    responses=documented(
        *ACCESS, *BODY, errors.WebhookUrlRefused, errors.WebhookLimitReached, errors.WebhooksNotConfigured
    ),
)
def create(body: WebhookIn, ledger: LedgerDep, settings: SettingsDep, caller: Writer) -> Response:
    """Be told of events from now on. The secret that signs them is in this answer, and in no later one."""
    made = verbs.create_webhook(ledger, settings, caller.tenant, body.model_dump(mode="json"))
    return answer(WebhookMade.of(made), {"Location": local(f"/v1/webhooks/{made.webhook.id}")}, 201)


@router.get("", operation_id="listWebhooks", response_model=WebhookPage, responses=documented(*ACCESS))
async def webhooks(request: Request, reader: Reader, cursor: Cursor = None, limit: Limit = 50) -> Response:
    """Webhooks, newest first."""
    return await reader.read(_page, asked(request), reader.settings, decode_newest(cursor), limit)


def _page(
    ledger: Reads, tenant: str, url: URL, settings: Settings, after: tuple[datetime, UUID] | None, limit: int
) -> Response:
    found = verbs.list_webhooks(ledger, settings, tenant, after=after, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].webhook.created_at, page[-1].webhook.id) if len(found) > limit else None
    return page_answer(WebhookPage(items=[WebhookOut.of(each) for each in page], next=following), url, following)


@router.get("/{webhook_id}", operation_id="getWebhook", response_model=WebhookOut, responses=documented(*FOUND))
async def webhook(webhook_id: UUID, reader: Reader) -> Response:
    """A webhook."""
    return await reader.read(_one, reader.settings, webhook_id)


def _one(ledger: Reads, tenant: str, settings: Settings, webhook_id: UUID) -> Response:
    return answer(WebhookOut.of(verbs.read_webhook(ledger, settings, tenant, webhook_id)))


@router.patch(
    "/{webhook_id}",
    operation_id="updateWebhook",
    response_model=WebhookOut,
    responses=documented(*FOUND, *BODY, errors.WebhookUrlRefused),
)
def update(
    webhook_id: UUID, body: WebhookChanges, ledger: LedgerDep, settings: SettingsDep, caller: Writer
) -> Response:
    """Change where a webhook leads and what it is told of, or disable or enable it. Of what happens while it is
    disabled it is not told."""
    members = body.model_dump(mode="json", include=body.model_fields_set)
    return answer(WebhookOut.of(verbs.change_webhook(ledger, settings, caller.tenant, webhook_id, members)))


@router.delete(
    "/{webhook_id}",
    operation_id="deleteWebhook",
    status_code=204,
    responses={204: {"description": "It is gone"}, **documented(*FOUND)},
)
def delete(webhook_id: UUID, ledger: LedgerDep, caller: Writer) -> Response:
    """Delete a webhook. What waits for it is not sent any more."""
    verbs.delete_webhook(ledger, caller.tenant, webhook_id)
    return Response(status_code=204)


@router.post(
    "/{webhook_id}/rotate",
    operation_id="rotateWebhookSecret",
    response_model=WebhookMade,
    responses=documented(*FOUND, *BODY, errors.WebhookRotated, errors.WebhooksNotConfigured),
)
def rotate(webhook_id: UUID, body: RotationIn, ledger: LedgerDep, settings: SettingsDep, caller: Writer) -> Response:
    """Make another secret, which is in this answer alone. For ``overlap_s`` the present one signs, too; one from before
    that signs no more."""
    made = verbs.rotate_webhook(
        ledger, settings, caller.tenant, webhook_id, overlap_s=body.overlap_s, generation=body.generation
    )
    return answer(WebhookMade.of(made))


@router.post(
    "/{webhook_id}/test",
    operation_id="testWebhook",
    status_code=202,
    response_model=DeliveryOut,
    responses=documented(*FOUND, errors.WebhookDisabled),
)
def test(webhook_id: UUID, ledger: LedgerDep, settings: SettingsDep, caller: Writer) -> Response:
    """Send it an event ``webhook.test``, by the same way as all others; read what became of it at ``Location``."""
    told = verbs.send_test(ledger, settings, caller.tenant, webhook_id)
    return _accepted(webhook_id, DeliveryOut.of(told))


def _accepted(webhook_id: UUID, delivery: DeliveryOut) -> Response:
    return answer(delivery, {"Location": local(f"/v1/webhooks/{webhook_id}/deliveries/{delivery.id}")}, 202)


@router.get(
    "/{webhook_id}/deliveries",
    operation_id="listDeliveries",
    response_model=DeliveryPage,
    responses=documented(*FOUND),
)
async def deliveries(
    webhook_id: UUID, request: Request, reader: Reader, cursor: Cursor = None, limit: Limit = 50
) -> Response:
    """What a webhook was told, and how that went, newest first."""
    return await reader.read(_deliveries, asked(request), webhook_id, decode_newest(cursor), limit)


def _deliveries(
    ledger: Reads, tenant: str, url: URL, webhook_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> Response:
    found = verbs.list_deliveries(ledger, tenant, webhook_id, after=after, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].created_at, page[-1].id) if len(found) > limit else None
    return page_answer(DeliveryPage(items=[DeliveryOut.of(each) for each in page], next=following), url, following)


@router.get(
    "/{webhook_id}/deliveries/{delivery_id}",
    operation_id="getDelivery",
    response_model=DeliveryOut,
    responses=documented(*ONE),
)
async def delivery(webhook_id: UUID, delivery_id: UUID, reader: Reader) -> Response:
    """One event told to a webhook."""
    return await reader.read(_delivery, webhook_id, delivery_id)


def _delivery(ledger: Reads, tenant: str, webhook_id: UUID, delivery_id: UUID) -> Response:
    return answer(DeliveryOut.of(verbs.read_delivery(ledger, tenant, webhook_id, delivery_id)))


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/resend",
    operation_id="resendDelivery",
    status_code=202,
    response_model=DeliveryOut,
    responses=documented(*ONE, errors.WebhookDisabled),
)
def resend(webhook_id: UUID, delivery_id: UUID, ledger: LedgerDep, settings: SettingsDep, caller: Writer) -> Response:
    """Tell the same event again, under the same ``webhook-id``. One that still waits is tried at once instead."""
    told = verbs.send_again(ledger, settings, caller.tenant, webhook_id, delivery_id)
    return _accepted(webhook_id, DeliveryOut.of(told))
