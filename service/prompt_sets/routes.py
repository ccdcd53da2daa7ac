"""/v1/prompt-sets"""

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.database.unit_of_work import Ledger, Reads, whole_or_again
from service.http.admission import KeyThenJson
from service.http.answers import answer
from service.http.context import LedgerDep, Reader, SettingsDep, Writer
from service.http.documented import ACCESS, documented
from service.http.fields import ModelName
from service.prompt_sets.lines import IN_CONTRACT, ORIGIN, Lines, OfLines, read_lines
from service.prompt_sets.schemas import (
    Limits,
    PromptSetIn,
    PromptSetOut,
    PromptSetPage,
    PromptSetShown,
    SetNamePath,
    ShownPrompt,
)
from service.prompt_sets.store import keep_prompt_set, list_prompt_sets, read_prompt_set
from service.settings import Settings
from service.tenants.counts import store_within
from spinal import errors
from spinal.prompts.builtin import BUILTIN_SETS, builtin_prompts
from spinal.prompts.gathered import Gathered
from spinal.prompts.sets import PromptSet
from spinal.prompts.stored import MAX_PROMPTS, MAX_TEXT, check_name, records

router = APIRouter(prefix="/v1", tags=["catalog"], route_class=KeyThenJson)
Name = Annotated[ModelName | None, Query(description="What the set is called, where the body is JSON lines.")]


def store_lines(
    raw: Lines, ledger: LedgerDep, settings: SettingsDep, caller: Writer, name: Name = None
) -> PromptSetOut:
    return _stored(ledger, settings, caller.tenant, read_lines(raw, name))


router.add_api_route(
    "/prompt-sets", store_lines, methods=["POST"], status_code=201, include_in_schema=False,
    route_class_override=OfLines,
)  # fmt: skip


@router.post(
    "/prompt-sets",
    operation_id="storePromptSet",
    status_code=201,
    openapi_extra=IN_CONTRACT,
    responses=documented(
        *ACCESS,
        errors.BodyMalformed,
        errors.BodyTooLarge,
        errors.MediaTypeUnsupported,
        errors.PromptSetEmpty,
        errors.PromptSetInvalid,
        errors.PromptSetLimitReached,
    ),
)
def store(
    body: PromptSetIn, ledger: LedgerDep, settings: SettingsDep, caller: Writer, name: Name = None
) -> PromptSetOut:
    """Store prompts under their digest, for use as ``prompt_set`` of an audit, which takes the name, too.

    A file of JSON lines, as ``spinal compare --prompts`` reads it, is stored as it is with ``Content-Type:
    application/jsonl`` and its name in the query. The newest set that was stored under a name is the one that it means.
    """
    found = Gathered()
    for item in body.prompts:
        found.add(item.read())
    return _stored(ledger, settings, caller.tenant, found.prompt_set(name=body.name or name, origin=ORIGIN))


def _stored(ledger: Ledger, settings: Settings, tenant: str, made: PromptSet) -> PromptSetOut:
    check_name(made.name, made)
    with ledger.begin() as session, whole_or_again():
        if keep_prompt_set(session, tenant, made, given=True):
            store_within(session, tenant, settings.limits_of(tenant))
    return PromptSetOut(digest=made.digest, name=made.name, count=len(made), builtin=False, remarks=list(made.remarks))


@router.get("/prompt-sets", operation_id="listPromptSets", response_model=PromptSetPage, responses=documented(*ACCESS))
async def prompt_sets(
    reader: Reader, settings: SettingsDep, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> Response:
    """Built-in sets, then the newest of the caller's tenant; and how large one may be."""
    limits = Limits(prompts=MAX_PROMPTS, characters=MAX_TEXT, bytes=settings.max_body_bytes)
    return await reader.read(_page, limit, limits)


def _page(ledger: Reads, tenant: str, limit: int, limits: Limits) -> Response:
    built_in = [builtin_prompts(name) for name in BUILTIN_SETS]
    known = {prompts.digest for prompts in built_in}
    items = [PromptSetOut(digest=p.digest, name=p.name, count=len(p), builtin=True) for p in built_in]
    with ledger.read() as session:
        stored = list_prompt_sets(session, tenant, limit)
    items += [
        PromptSetOut(digest=row.digest, name=row.name, count=row.count, builtin=False)
        for row in stored
        if row.digest not in known
    ]
    return answer(PromptSetPage(items=items[: limit + len(built_in)], limits=limits))


@router.get(
    "/prompt-sets/{name}",
    operation_id="getPromptSet",
    response_model=PromptSetShown,
    responses=documented(*ACCESS, errors.StoredPromptSetNotFound),
)
async def prompt_set(
    name: SetNamePath,
    reader: Reader,
    prompts: Annotated[int, Query(ge=0, le=MAX_PROMPTS, description="How many prompts are shown.")] = 20,
) -> Response:
    """A prompt set by name or digest: a built-in one, or the newest that the caller's tenant calls so."""
    return await reader.read(_one, name, prompts)


def _one(ledger: Reads, tenant: str, name: str, shown: int) -> Response:
    builtin = next((made for made in map(builtin_prompts, BUILTIN_SETS) if name in (made.name, made.digest)), None)
    if builtin is None:
        with ledger.read() as session:
            found = read_prompt_set(session, tenant, name)
    else:
        found = builtin
    first = records(found.chosen(range(min(shown, len(found))))) if shown else []
    return answer(
        PromptSetShown(
            digest=found.digest,
            name=found.name,
            count=len(found),
            builtin=builtin is not None,
            categories=Counter(category for category in found.categories if category is not None),
            prompts=[ShownPrompt.model_validate(one) for one in first],
        )
    )
