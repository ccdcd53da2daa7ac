"""/v1/models"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.datastructures import URL

from service.database.unit_of_work import Reads
from service.http.answers import answer
from service.http.context import InspectorsDep, LedgerDep, Reader, SettingsDep, Writer
from service.http.documented import ACCESS, SUBMIT_ERRORS, documented
from service.http.pagination import decode, encode, page_answer
from service.models.schemas import ModelIn, ModelOut, ModelPage
from service.models.store import list_models
from service.models.verbs import read_model, register_model
from spinal import errors

router = APIRouter(prefix="/v1", tags=["catalog"])


@router.post(
    "/models",
    operation_id="registerModel",
    status_code=201,
    responses=documented(*SUBMIT_ERRORS, errors.ModelNameTaken),
)
def register(
    body: ModelIn,
    response: Response,
    ledger: LedgerDep,
    settings: SettingsDep,
    inspectors: InspectorsDep,
    caller: Writer,
) -> ModelOut:
    """Give a checkpoint a name. The checkpoint is checked as for an audit."""
    record = register_model(
        ledger,
        settings,
        inspectors,
        tenant=caller.tenant,
        name=body.name,
        reference=body.reference,
        description=body.description,
        labels=body.labels,
    )
    response.headers["Location"] = f"/v1/models/{record.name}"
    return ModelOut.of(record)


@router.get("/models", operation_id="listModels", response_model=ModelPage, responses=documented(*ACCESS))
async def models(
    request: Request,
    reader: Reader,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """Registered models by name."""
    after = decode(cursor, 1)[0].replace("\x00", "") if cursor is not None else None
    return await reader.read(_page, request.url, after, limit)


def _page(ledger: Reads, tenant: str, url: URL, after: str | None, limit: int) -> Response:
    with ledger.read() as session:
        found = list_models(session, tenant, after=after, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].name) if len(found) > limit else None
    return page_answer(ModelPage(items=[ModelOut.of(model) for model in page], next=following), url, following)


@router.get(
    "/models/{name}",
    operation_id="getModel",
    response_model=ModelOut,
    responses=documented(*ACCESS, errors.RegisteredModelNotFound),
)
async def model(name: Annotated[str, Path(max_length=128, pattern=r"^[A-Za-z0-9._-]+$")], reader: Reader) -> Response:
    """A registered model by name or id."""
    return await reader.read(_one, name)


def _one(ledger: Reads, tenant: str, name: str) -> Response:
    return answer(ModelOut.of(read_model(ledger, tenant, name)))
