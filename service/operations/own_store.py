"""Whether the artifact store belongs to this installation: the database holds an id, the store a file with the same."""

import math
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.operations.retained import unnamed_captures
from service.platform.artifacts import MARKER, ArtifactStore
from spinal.errors import StorageRefused

log = structlog.get_logger(__name__)
EVEN_NEW = -math.inf
"""Clocks of stores differ from ours."""


def installation_id(session: Session) -> UUID:
    """Of this database, and of every one that is restored from a dump of it."""
    return UUID(str(session.execute(text("SELECT id FROM installation")).scalar_one()))


def require_own_store(ledger: Ledger, artifacts: ArtifactStore, *, adopt: bool) -> None:
    """Raise StorageRefused where the store belongs to another installation. One without a marker becomes this one's
    with ``adopt``, if it is empty or holds a capture that this database names: releases before left no marker."""
    with ledger.read() as session:
        own = installation_id(session)
    found = artifacts.marker()
    if found is None:
        if not adopt:
            return
        _adopt(ledger, artifacts, own)
        found = artifacts.marker()
    if found != own:
        raise StorageRefused(
            f"the artifact store belongs to installation {found}, this database is installation {own}",
            hint=f"set SPINAL_ARTIFACT_URL to a store of its own; if {found} is gone for good, delete {MARKER} there "
            "and what lies beside it",
        )
    artifacts.is_marked()


def _adopt(ledger: Ledger, artifacts: ArtifactStore, own: UUID) -> None:
    there = artifacts.older_than(EVEN_NEW)
    with ledger.read() as session:
        foreign = len(unnamed_captures(session, there)) == len(there)
        known = session.execute(text("SELECT EXISTS (SELECT 1 FROM traces WHERE capture_uri IS NOT NULL)")).scalar()
    if there and foreign:
        raise StorageRefused(
            f"the artifact store has no file {MARKER}, and none of its {len(there)} captures is of this database",
            hint=f"set SPINAL_ARTIFACT_URL right; if they are its own, left over, write {own} into {MARKER}",
        )
    if known and not there:
        log.warning(
            "this artifact store holds none of the captures that the database names: they are measured again",
            hint="all workers need one store: share the folder between them, or use a bucket",
        )
    artifacts.mark(own)
    log.info("the artifact store was marked as this installation's", installation=str(own))
