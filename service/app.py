"""The application factory. Importing this module opens nothing."""

import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from anyio import CapacityLimiter
from fastapi import Depends, FastAPI
from fastapi.middleware.gzip import GZipMiddleware

from service import openapi
from service.attestations import routes as attestations
from service.attestations.signing import Signing, require_usable_key
from service.audits import routes as audits
from service.database.sessions import require_sessions
from service.database.unit_of_work import Ledger
from service.http import problems
from service.http.addresses import Reaching
from service.http.context import refuse_unknown_query, telling_uses
from service.http.limits import RequestLimits, TellsLimits
from service.http.measured import ApiMetrics, Measuring
from service.http.methods import Heads
from service.http.middleware import BodyLimit, RequestContext
from service.http.probes import is_untraced_in
from service.http.waits import Waits, waking
from service.integrations import routes as integrations
from service.integrations.background import serving_registries
from service.keys.uses import Uses
from service.links import routes as links
from service.models import routes as models
from service.operations import health
from service.pages import routes as pages
from service.pages.shown import error_page
from service.platform.logs import configure_logs
from service.platform.telemetry import configure_telemetry, flush_telemetry
from service.policies import routes as policies
from service.prompt_sets import routes as prompt_sets
from service.reference import routes as reference
from service.series import routes as series
from service.settings import Settings, one_line, settings_at_start
from service.traces import routes as traces
from service.webhooks import routes as webhooks
from spinal import __version__
from spinal.checkpoints.bounded import Bounds, Inspectors
from spinal.errors import UsageError

COMPRESS_FROM_BYTES, COMPRESS_LEVEL = 2048, 4
"""A page of audits shrinks to a tenth, at a level that costs less than sending it; small answers go as they are."""
DESCRIPTION = """Audits what alignment did inside a language model.

Submit an audit of a candidate checkpoint against a reference, wait for it, and read where the change sits in
depth, how strong it is, and whether the candidate is damaged. Every error is `application/problem+json` with a
stable `code`. Nothing here claims that a model is or is not aligned."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API on ``settings`` (by default those of the environment, which end the process with one line where they are
    wrong). Raises ValueError when keys are required but no pepper is set, and UsageError for a source of models that
    cannot be used as it is described, one whose file with a token is missing for example, and for a pooler that is not
    what the settings say."""
    chosen = settings or settings_at_start()
    if chosen.auth == "required" and not chosen.key_pepper.get_secret_value():
        says = "SPINAL_KEY_PEPPER must be set while SPINAL_AUTH is 'required'"
        if settings is not None:
            raise ValueError(says)
        sys.exit(f"error: {says}")
    try:
        chosen.model_sources.require_usable()
        chosen.registries.require_usable()
        require_sessions(chosen)
        require_usable_key(chosen)
    except UsageError as error:
        if settings is not None:
            raise
        sys.exit(one_line(error))
    configure_logs(chosen)
    configure_telemetry(chosen, "spinal-api")
    metrics = ApiMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.ledger = Ledger(chosen)
        app.state.turns = CapacityLimiter(chosen.db_pool_size)
        app.state.admitting = CapacityLimiter(max(1, chosen.db_pool_size // 2))
        app.state.inspecting = CapacityLimiter(max(1, chosen.db_pool_size // 2))
        bounds = Bounds(chosen.inspect_seconds, chosen.inspect_memory_mb, chosen.inspect_children)
        app.state.key_uses = Uses()
        app.state.waits = Waits(chosen)
        app.state.request_limits = RequestLimits(chosen)
        app.state.signing = Signing(chosen)
        with Inspectors(bounds, chosen.store_of_models()) as app.state.inspectors, ExitStack() as closing:
            app.state.inspectors.start()
            metrics.inspections.set_function(app.state.inspectors.working)
            closing.callback(metrics.serve(chosen))
            async with telling_uses(app.state), waking(app.state), serving_registries(app.state):
                yield
        app.state.ledger.close()
        flush_telemetry()

    app = bare_app(chosen, metrics, lifespan=lifespan)
    app.state.settings = chosen
    return app


def bare_app(
    settings: Settings | None = None, metrics: ApiMetrics | None = None, *, lifespan: object = None
) -> FastAPI:
    """Routes and contract without any connection, as needed to write ``openapi.yaml``."""
    chosen = settings or Settings.model_construct()
    app = FastAPI(
        title="SPINAL audit service",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,  # type: ignore[arg-type]  # None or a lifespan of FastAPI
        separate_input_output_schemas=False,
        # Pages and addresses of our own: the framework's load scripts from elsewhere, and name the Host header.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"exclude": is_untraced_in(chosen.prefix)},
    )
    problems.install(app, error_page)
    openapi.install(app)
    # From the inside out.
    app.add_middleware(BodyLimit, most=chosen.max_body_bytes)
    app.add_middleware(TellsLimits)
    app.add_middleware(GZipMiddleware, minimum_size=COMPRESS_FROM_BYTES, compresslevel=COMPRESS_LEVEL)
    app.add_middleware(Heads)
    app.add_middleware(Measuring, metrics=metrics or ApiMetrics())
    app.add_middleware(RequestContext)
    app.add_middleware(Reaching, settings=chosen)
    for noun in (
        audits, attestations, traces, models, prompt_sets, policies, series, webhooks, integrations, links, health,
        reference, pages,
    ):  # fmt: skip
        app.include_router(noun.router, dependencies=[Depends(refuse_unknown_query)])
    app.include_router(links.opened)
    return app
