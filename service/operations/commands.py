"""``spinal database``, ``retention``, ``tenants`` and ``doctor``: what operators call from a shell."""

import json
import sys
from typing import Annotated

import typer

from service.database.unit_of_work import allow
from service.operations import migrate
from service.operations.deletion import delete_tenant
from service.operations.invariants import INVARIANTS, RECOMPUTED, violations
from service.operations.own_store import require_own_store
from service.operations.retention import delete_what_can_be_made_again
from service.operations.surroundings import AsJson, database_named, opened_ledger
from service.operations.tenants_listed import list_tenants
from service.platform.artifacts import ArtifactStore
from service.settings import read_settings
from service.traces.store import measured_again
from spinal.cli.server import print_table
from spinal.errors import ExitCode
from spinal.text import visible_json

READING_LIMIT_S = 3600.0
"""The doctor reads the whole ledger."""

database = typer.Typer(no_args_is_help=True, add_completion=False)
retention = typer.Typer(add_completion=False)
doctor = typer.Typer(add_completion=False)
tenants = typer.Typer(no_args_is_help=True, add_completion=False)


@database.callback()
def _database() -> None:
    """The database of the service: which migration it is at, up and down."""


@database.command()
def upgrade(
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds in which the database may come up.")
    ] = migrate.WAIT_S,
    as_json: AsJson = False,
) -> None:
    """Bring the database to the newest migration, waiting for it to come up."""
    with database_named():
        migrate.upgrade(read_settings(), wait_s=wait_s)
    _say_revision(migrate.head(), as_json)


@database.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="Migration to go back to, to return to an older release.")],
    as_json: AsJson = False,
) -> None:
    """Take the database back to an earlier migration."""
    with database_named():
        migrate.downgrade(read_settings(), revision)
    _say_revision(revision, as_json)


@database.command()
def current(as_json: AsJson = False) -> None:
    """Say which migration the database is at."""
    engine = migrate.direct_engine(read_settings())
    try:
        with database_named():
            at = migrate.current(engine)
    finally:
        engine.dispose()
    _say_revision(at, as_json)


def _say_revision(at: str | None, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"revision": at, "newest": migrate.head()}) + "\n")
    else:
        sys.stderr.write(f"database is at {at or 'no migration'}\n")


@retention.command()
def _retention(
    captures_days: Annotated[
        float | None, typer.Option(min=0, help="Delete captures of traces older than this.")
    ] = None,
    keys_days: Annotated[
        float | None, typer.Option(min=0, help="Delete answers kept under Idempotency-Keys older than this.")
    ] = None,
    deliveries_days: Annotated[
        float | None, typer.Option(min=0, help="Delete deliveries to webhooks and registries that ended longer ago.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Delete; without it only say what would be deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what can be made again: captures, files that belong to no trace, answers kept under old Idempotency-Keys;
    and deliveries that ended long ago.

    Audits, traces and comparisons are never deleted.
    """
    with opened_ledger() as ledger:
        found = delete_what_can_be_made_again(
            ledger, ArtifactStore(read_settings()), captures_days, keys_days, deliveries_days, apply=apply
        )
    sys.stdout.write(json.dumps({"applied": apply, **found}, indent=2) + "\n")


@tenants.callback()
def _tenants() -> None:
    """Tenants: who there is, and deleting one's data."""


@tenants.command("list")
def show_tenants(as_json: AsJson = False) -> None:
    """List the tenants that have keys or anything else, with how much of it."""
    with opened_ledger() as ledger, ledger.read() as session:
        allow(session, READING_LIMIT_S)
        found = list_tenants(session)
    if as_json:
        sys.stdout.write(visible_json(json.dumps([row._asdict() for row in found])) + "\n")
        return
    columns = ("tenant", "audits", "open", "series", "models", "prompt sets", "live keys")
    print_table(columns, [tuple(map(str, row)) for row in found], whole=("tenant",))


@tenants.command()
def delete(
    tenant: Annotated[str, typer.Argument(help="Whose data are to be deleted.")],
    apply: Annotated[bool, typer.Option("--apply", help="Delete; without it only say what there is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete all data of a tenant: keys, audits, series, models, policies, prompts, and what only they needed.

    Its keys end first, and what is open is cancelled. What other tenants hold stays. It may be called again at any
    time, and goes on where it was stopped.
    """
    with opened_ledger() as ledger:
        found = delete_tenant(ledger, ArtifactStore(read_settings()), tenant, apply=apply)
    sys.stdout.write(visible_json(json.dumps({"applied": apply, "tenant": tenant, "rows": found}, indent=2)) + "\n")
    if not found:
        sys.stderr.write("nothing names this tenant; `spinal tenants list` shows those that there are\n")


@doctor.command()
def _doctor(
    captures: Annotated[bool, typer.Option(help="Read every stored capture, too, and hold it to its sha256.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check what must always hold in the ledger behind SPINAL_DATABASE_URL, and in its artifact store.

    Exit 0 when it does, 1 when not (the offenders are printed as JSON), 3 when it could not be checked.
    """
    with opened_ledger() as ledger:
        artifacts = ArtifactStore(read_settings()) if captures else None
        if artifacts is not None:
            require_own_store(ledger, artifacts, adopt=False)
        with ledger.read() as session:
            allow(session, READING_LIMIT_S)
            found = violations(session, sha256_of=None if artifacts is None else artifacts.sha256)
            lost = measured_again(session)
    if found or as_json:
        sys.stdout.write(json.dumps(found, default=str, indent=2) + "\n")
    if found:
        raise typer.Exit(int(ExitCode.FAILED))
    sys.stderr.write(f"all {len(INVARIANTS) + len(RECOMPUTED) + captures} invariants hold\n")
    if lost:
        sys.stderr.write(f"captures that were not in the artifact store and were measured again: {lost}\n")
    sys.stderr.write(f"models may live in: {read_settings().model_sources.enabled()}\n")
