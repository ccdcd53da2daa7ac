"""/v1/models"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from service.http.context import LedgerDep, Reader, ReadingDep, SettingsDep, Writer
from service.http.documented import ACCESS, SUBMIT_ERRORS, documented
from service.http.pagination import decode, encode, link_next
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
def register(body: ModelIn, response: Response, ledger: LedgerDep, settings: SettingsDep, caller: Writer) -> ModelOut:
    """Give a checkpoint a name. The checkpoint is checked as for an audit."""
    record = register_model(
        ledger,
        settings,
        tenant=caller.tenant,
        name=body.name,
        reference=body.reference,
        description=body.description,
        labels=body.labels,
    )
    response.headers["Location"] = f"/v1/models/{record.name}"
    return ModelOut.of(record)


@router.get("/models", operation_id="listModels", responses=documented(*ACCESS))
def models(
    request: Request,
    response: Response,
    reading: ReadingDep,
    caller: Reader,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> ModelPage:
    """Registered models by name."""
    after = decode(cursor, 1)[0].replace("\x00", "") if cursor is not None else None
    with reading.read() as session:
        found = list_models(session, caller.tenant, after=after, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].name) if len(found) > limit else None
    link_next(request, response, following)
    return ModelPage(items=[ModelOut.of(record) for record in page], next=following)


@router.get("/models/{name}", operation_id="getModel", responses=documented(*ACCESS, errors.RegisteredModelNotFound))
def model(
    name: Annotated[str, Path(max_length=128, pattern=r"^[A-Za-z0-9._-]+$")], reading: ReadingDep, caller: Reader
) -> ModelOut:
    """A registered model by name or id."""
    return ModelOut.of(read_model(reading, caller.tenant, name))
