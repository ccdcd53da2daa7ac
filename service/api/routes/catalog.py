"""/v1/models and /v1/prompt-sets"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from service.api.context import LedgerDep, Reader, SettingsDep, Writer
from service.api.pagination import decode, encode, link_next
from service.api.routes.audits import ACCESS, SUBMIT_ERRORS
from service.api.schemas.catalog import ModelIn, ModelOut, ModelPage, PromptSetIn, PromptSetOut, PromptSetPage
from service.api.schemas.problem import documented
from service.ledger.models import list_models
from service.ledger.prompt_sets import list_prompt_sets, store_prompt_set
from service.usecases.models import read_model, register_model
from spinal import errors
from spinal.prompts import BUILTIN_SETS, builtin_prompts, make_prompt_set

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
    ledger: LedgerDep,
    caller: Reader,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> ModelPage:
    """Registered models by name."""
    after = decode(cursor, 1)[0].replace("\x00", "") if cursor is not None else None
    with ledger.read() as session:
        found = list_models(session, caller.tenant, after=after, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].name) if len(found) > limit else None
    link_next(request, response, following)
    return ModelPage(items=[ModelOut.of(record) for record in page], next=following)


@router.get("/models/{name}", operation_id="getModel", responses=documented(*ACCESS, errors.RegisteredModelNotFound))
def model(
    name: Annotated[str, Path(max_length=128, pattern=r"^[A-Za-z0-9._-]+$")], ledger: LedgerDep, caller: Reader
) -> ModelOut:
    """A registered model by name or id."""
    return ModelOut.of(read_model(ledger, caller.tenant, name))


@router.post(
    "/prompt-sets",
    operation_id="storePromptSet",
    status_code=201,
    responses=documented(
        *ACCESS, errors.BodyMalformed, errors.BodyTooLarge, errors.MediaTypeUnsupported, errors.PromptSetEmpty
    ),
)
def store(body: PromptSetIn, ledger: LedgerDep, caller: Writer) -> PromptSetOut:
    """Store prompts under their digest, for use as ``prompt_set`` of an audit."""
    pairs = [(item.prompt, item.continuation) for item in body.prompts]
    made = make_prompt_set(pairs, name=body.name, origin="the request")
    with ledger.begin() as session:
        store_prompt_set(session, made)
    return PromptSetOut(digest=made.digest, name=made.name, count=len(made), builtin=False)


@router.get("/prompt-sets", operation_id="listPromptSets", responses=documented(*ACCESS))
def prompt_sets(ledger: LedgerDep, caller: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> PromptSetPage:
    """Built-in sets, then the newest stored ones."""
    built_in = [builtin_prompts(name) for name in BUILTIN_SETS]
    known = {prompts.digest for prompts in built_in}
    items = [PromptSetOut(digest=p.digest, name=p.name, count=len(p), builtin=True) for p in built_in]
    with ledger.read() as session:
        stored = list_prompt_sets(session, limit)
    items += [
        PromptSetOut(digest=row.digest, name=row.name, count=row.count, builtin=False)
        for row in stored
        if row.digest not in known
    ]
    return PromptSetPage(items=items[: limit + len(built_in)])
