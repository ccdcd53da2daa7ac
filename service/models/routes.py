"""/v1/models"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import URL

from service.database.unit_of_work import Reads
from service.http.addresses import asked, local
from service.http.admission import KeyThenJson
from service.http.answers import answer
from service.http.context import InspectorsDep, LedgerDep, Reader, SettingsDep, Writer
from service.http.documented import ACCESS, SUBMIT_ERRORS, documented
from service.http.pagination import decode, decode_number, encode, page_answer
from service.models import names, verbs
from service.models.schemas import (
    AliasIn,
    AliasOut,
    ModelChanges,
    ModelIn,
    ModelOut,
    ModelPage,
    VersionIn,
    VersionOut,
    VersionPage,
)
from service.models.store import list_models
from spinal import errors


class ModelPath(Convertor[str]):
    """A name, which may hold a slash, as it is or as %2F. It ends where a part of the model begins: else the versions
    of ``acme`` would be a model, too, with methods that they do not have."""

    regex = f"(?:(?!/(?:{'|'.join(names.OF_ROUTES)})(?:/|$)).)+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


# The framework looks convertors up by name when a route is made, which is here.
register_url_convertor("model", ModelPath())
router = APIRouter(prefix="/v1/models", tags=["catalog"], route_class=KeyThenJson)

LOOKED_UP = r"^[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)?$"
Name = Annotated[
    str,
    Path(
        max_length=names.MOST_NAME, pattern=LOOKED_UP, description="Name, with its organisation where it has one, or id"
    ),
]
VersionPart = Annotated[str, Path(pattern=f"^{names.VERSION}$", description="One of its versions")]
AliasPart = Annotated[str, Path(pattern=f"^{names.ALIAS}$", description="One of its aliases")]
Cursor = Annotated[str | None, Query(max_length=512)]
Limit = Annotated[int, Query(ge=1, le=200)]
GONE = {"description": "It is gone"}


@router.post(
    "",
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
    """Give a checkpoint a name. The checkpoint is checked as for an audit, and its reference is pinned."""
    record = verbs.register_model(
        ledger,
        settings,
        inspectors,
        tenant=caller.tenant,
        name=body.name,
        reference=body.reference,
        version=body.version,
        aliases=body.aliases,
        description=body.description,
        labels=body.labels,
    )
    response.headers["Location"] = local(f"/v1/models/{record.name}")
    return ModelOut.of(record)


@router.get("", operation_id="listModels", response_model=ModelPage, responses=documented(*ACCESS))
async def models(request: Request, reader: Reader, cursor: Cursor = None, limit: Limit = 50) -> Response:
    """Registered models by name, each as its newest version is."""
    after = decode(cursor, 1)[0] if cursor is not None else None
    return await reader.read(_page, asked(request), after, limit)


def _page(ledger: Reads, tenant: str, url: URL, after: str | None, limit: int) -> Response:
    with ledger.read() as session:
        found = list_models(session, tenant, after=after, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].name) if len(found) > limit else None
    return page_answer(ModelPage(items=[ModelOut.of(model) for model in page], next=following), url, following)


# versions


@router.get(
    "/{name:model}/versions/{version}",
    operation_id="getModelVersion",
    response_model=VersionOut,
    responses=documented(*ACCESS, errors.RegisteredModelNotFound, errors.ModelVersionNotFound),
)
async def version(name: Name, version: VersionPart, reader: Reader) -> Response:
    """One version of a registered model."""
    return await reader.read(_version, name, version)


def _version(ledger: Reads, tenant: str, name: str, version: str) -> Response:
    return answer(VersionOut.of(*verbs.read_version(ledger, tenant, name, version)))


@router.delete(
    "/{name:model}/versions/{version}",
    operation_id="deleteModelVersion",
    status_code=204,
    responses={
        204: GONE,
        **documented(*ACCESS, errors.RegisteredModelNotFound, errors.ModelVersionNotFound, errors.ModelVersionInUse),
    },
)
def delete_version(name: Name, version: VersionPart, ledger: LedgerDep, caller: Writer) -> Response:
    """Take back a version at which no alias points. Audits that named it keep what it was."""
    verbs.delete_version(ledger, caller.tenant, name, version)
    return Response(status_code=204)


@router.post(
    "/{name:model}/versions",
    operation_id="registerModelVersion",
    status_code=201,
    response_model=VersionOut,
    responses={
        200: {"model": VersionOut, "description": "The same version was there"},
        **documented(*SUBMIT_ERRORS, errors.RegisteredModelNotFound, errors.ModelVersionTaken),
    },
)
def register_version(
    name: Name, body: VersionIn, ledger: LedgerDep, settings: SettingsDep, inspectors: InspectorsDep, caller: Writer
) -> Response:
    """Register a version, the newest from now on. The same one again, with the same reference and labels, changes
    nothing; another reference under its name is refused."""
    kept = verbs.register_version(
        ledger,
        settings,
        inspectors,
        tenant=caller.tenant,
        name=name,
        reference=body.reference,
        version=body.version,
        labels=body.labels,
    )
    headers = {"Location": local(f"/v1/models/{kept.model.name}/versions/{kept.version.version}")}
    return answer(VersionOut.of(kept.model, kept.version), headers, 201 if kept.fresh else 200)


@router.get(
    "/{name:model}/versions",
    operation_id="listModelVersions",
    response_model=VersionPage,
    responses=documented(*ACCESS, errors.RegisteredModelNotFound),
)
async def versions(name: Name, request: Request, reader: Reader, cursor: Cursor = None, limit: Limit = 50) -> Response:
    """Versions of a registered model, newest first."""
    before = decode_number(decode(cursor, 1)[0]) if cursor is not None else None
    return await reader.read(_versions, asked(request), name, before, limit)


def _versions(ledger: Reads, tenant: str, url: URL, name: str, before: int | None, limit: int) -> Response:
    model, found = verbs.list_versions(ledger, tenant, name, before=before, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].number) if len(found) > limit else None
    items = [VersionOut.of(model, version) for version in page]
    return page_answer(VersionPage(items=items, next=following), url, following)


# aliases


@router.put(
    "/{name:model}/aliases/{alias}",
    operation_id="moveModelAlias",
    responses=documented(
        *ACCESS,
        errors.BodyMalformed,
        errors.BodyTooLarge,
        errors.MediaTypeUnsupported,
        errors.RegisteredModelNotFound,
        errors.ModelVersionNotFound,
        errors.ModelAliasesFull,
    ),
)
def move_alias(name: Name, alias: AliasPart, body: AliasIn, ledger: LedgerDep, caller: Writer) -> AliasOut:
    """Let an alias point at a version, whether it is new or pointed at another. What was submitted before keeps the
    version that it meant then."""
    return AliasOut.of(*verbs.move_alias(ledger, caller.tenant, name, alias, body.version))


@router.delete(
    "/{name:model}/aliases/{alias}",
    operation_id="deleteModelAlias",
    status_code=204,
    responses={204: GONE, **documented(*ACCESS, errors.RegisteredModelNotFound, errors.ModelAliasNotFound)},
)
def delete_alias(name: Name, alias: AliasPart, ledger: LedgerDep, caller: Writer) -> Response:
    """Take back an alias; the version at which it points stays."""
    verbs.delete_alias(ledger, caller.tenant, name, alias)
    return Response(status_code=204)


# the model itself


@router.get(
    "/{name:model}",
    operation_id="getModel",
    response_model=ModelOut,
    responses=documented(*ACCESS, errors.RegisteredModelNotFound),
)
async def model(name: Name, reader: Reader) -> Response:
    """A registered model by name or id, as its newest version is, with all its aliases."""
    return await reader.read(_one, name)


def _one(ledger: Reads, tenant: str, name: str) -> Response:
    return answer(ModelOut.of(verbs.read_model(ledger, tenant, name)))


@router.patch(
    "/{name:model}",
    operation_id="updateModel",
    responses=documented(
        *ACCESS,
        errors.BodyMalformed,
        errors.BodyTooLarge,
        errors.MediaTypeUnsupported,
        errors.RegisteredModelNotFound,
    ),
)
def update(name: Name, body: ModelChanges, ledger: LedgerDep, caller: Writer) -> ModelOut:
    """Give a registered model another description, or other labels."""
    return ModelOut.of(verbs.update_model(ledger, caller.tenant, name, body.model_dump(exclude_unset=True)))


@router.delete(
    "/{name:model}",
    operation_id="deleteModel",
    status_code=204,
    responses={204: GONE, **documented(*ACCESS, errors.RegisteredModelNotFound)},
)
def delete(name: Name, ledger: LedgerDep, caller: Writer) -> Response:
    """Take back a name with all its versions and aliases. Audits and series that named it go on: they keep what it
    meant."""
    verbs.delete_model(ledger, caller.tenant, name)
    return Response(status_code=204)
