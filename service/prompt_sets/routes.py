"""/v1/prompt-sets"""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.database.unit_of_work import Reads
from service.http.answers import answer
from service.http.context import LedgerDep, Reader, Writer
from service.http.documented import ACCESS, documented
from service.prompt_sets.schemas import PromptSetIn, PromptSetOut, PromptSetPage
from service.prompt_sets.store import keep_prompt_set, list_prompt_sets
from spinal import errors
from spinal.prompts.builtin import BUILTIN_SETS, builtin_prompts
from spinal.prompts.gathered import Gathered

router = APIRouter(prefix="/v1", tags=["catalog"])


@router.post(
    "/prompt-sets",
    operation_id="storePromptSet",
    status_code=201,
    responses=documented(
        *ACCESS,
        errors.BodyMalformed,
        errors.BodyTooLarge,
        errors.MediaTypeUnsupported,
        errors.PromptSetEmpty,
        errors.PromptSetInvalid,
    ),
)
def store(body: PromptSetIn, ledger: LedgerDep, caller: Writer) -> PromptSetOut:
    """Store prompts under their digest, for use as ``prompt_set`` of an audit, which takes the name, too."""
    found = Gathered()
    for item in body.prompts:
        found.add(item.read())
    made = found.prompt_set(name=body.name, origin="the request")
    with ledger.begin() as session:
        keep_prompt_set(session, caller.tenant, made)
    return PromptSetOut(digest=made.digest, name=made.name, count=len(made), builtin=False, remarks=list(made.remarks))


@router.get("/prompt-sets", operation_id="listPromptSets", response_model=PromptSetPage, responses=documented(*ACCESS))
async def prompt_sets(reader: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> Response:
    """Built-in sets, then the newest of the caller's tenant."""
    return await reader.read(_page, limit)


def _page(ledger: Reads, tenant: str, limit: int) -> Response:
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
    return answer(PromptSetPage(items=items[: limit + len(built_in)]))
