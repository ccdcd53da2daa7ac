"""/v1/audits/{id}/attestation and /v1/attestation-key"""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from service.attestations.schemas import (
    ENVELOPE,
    AttestationKeyOut,
    AttestationList,
    AttestationOut,
    Predicate,
    Rendering,
)
from service.attestations.signing import Signing
from service.attestations.store import Attestation
from service.attestations.verbs import find, keep, list_given, sign, state
from service.database.unit_of_work import Reads
from service.http.answers import answer
from service.http.context import Asker, Reader
from service.http.documented import ACCESS, documented
from spinal import errors
from spinal.attestations.envelope import BUNDLE_TYPE, bundle_of
from spinal.documents.canonical import canonical_json

router = APIRouter(prefix="/v1", tags=["attestations"])

ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"
CACHING = {"Cache-Control": "private, no-cache"}
"""It never changes, and another key gives another one."""
KEY_ERRORS = (errors.NoAttestationKey, errors.AttestationKeyFailed)


@router.get(
    "/audits/{audit_id}/attestations",
    operation_id="listAttestations",
    response_model=AttestationList,
    responses=documented(*ACCESS, errors.AuditNotFound),
)
async def listing(audit_id: UUID, reader: Reader) -> Response:
    """The attestations of an audit that were given out. What nobody has asked for yet is not among them."""
    return await reader.read(_listed, audit_id)


def _listed(ledger: Reads, tenant: str, audit_id: UUID) -> Response:
    return answer(AttestationList(items=[AttestationOut.of(one) for one in list_given(ledger, tenant, audit_id)]))


@router.get(
    "/audits/{audit_id}/attestation",
    operation_id="getAttestation",
    response_class=Response,
    responses={
        200: {
            "description": "The signed statement: the same bytes every time",
            "content": {
                ENVELOPE_TYPE: {"schema": ENVELOPE},
                BUNDLE_TYPE: {"schema": {"type": "object"}},
            },
        },
        **documented(
            *ACCESS,
            *KEY_ERRORS,
            errors.AuditNotFound,
            errors.AuditNotFinished,
            errors.NoVerdict,
            errors.NotAttestable,
            errors.VerdictNotPass,
            errors.PassRestsOnWaiver,
        ),
    },
)
async def one(
    audit_id: UUID,
    request: Request,
    reader: Reader,
    predicate: Predicate = "test-result",
    format: Rendering = "dsse",
) -> Response:
    """A signed statement about an audit. ``test-result`` says what was found; ``svr`` says that it passed, and there is
    none (404) of an audit that did not, or that rests on a waiver. Signed when it is first asked for, and kept."""
    found = await _given(request, reader, audit_id, predicate)
    if format == "sigstore":
        return Response(canonical_json(bundle_of(found.envelope)), headers=CACHING, media_type=BUNDLE_TYPE)
    return Response(canonical_json(found.envelope), headers=CACHING, media_type=ENVELOPE_TYPE)


async def _given(request: Request, reader: Asker, audit_id: UUID, predicate: Predicate) -> Attestation:
    stated = await reader.read(state, reader.settings, audit_id, predicate)
    signing: Signing = request.app.state.signing
    # Neither a connection nor a turn is held while a key server is asked, and few threads.
    signer = await signing.opened()
    known = await reader.read(find, stated, signer.public.id)
    if known is not None:
        return known
    envelope = await signing.apart(lambda: sign(stated, signer))
    return await reader.keep(keep, stated, signer.public.id, envelope)


@router.get(
    "/attestation-key",
    operation_id="getAttestationKey",
    response_model=AttestationKeyOut,
    responses=documented(*ACCESS, *KEY_ERRORS),
)
async def key(request: Request, reader: Reader) -> Response:
    """The public key that attestations are verified with. Compare it with what the operator tells you another way."""
    await reader.read(_admitted)
    signing: Signing = request.app.state.signing
    signer = await signing.opened()
    return answer(AttestationKeyOut.of(signer.public))


def _admitted(_ledger: Reads, _tenant: str) -> None:
    """Nothing is read but the caller's key."""
