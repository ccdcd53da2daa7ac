"""What is kept of files and of attestations, statement by statement."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from service.attestations import store
from service.operations.deleted import Gone, delete_files
from service.traces.files import files_of, store_files
from spinal.documents.files import FileDigests
from tests.ledger.rows import put_audit, put_trace

BASE = FileDigests(files={"config.json": "1" * 64, "model.safetensors": "2" * 64})
ADAPTER = FileDigests(files={"adapter_model.safetensors": "3" * 64}, base=BASE.weights_digest)
OTHER = FileDigests(files={"adapter_model.safetensors": "4" * 64}, base=BASE.weights_digest)


def kept(session: Session) -> set[str]:
    return set(session.execute(text("SELECT weights_digest FROM weights_files")).scalars())


def test_files_are_kept_once_by_the_digest_that_they_make(session: Session) -> None:
    store_files(session, (ADAPTER, BASE))
    store_files(session, (ADAPTER, BASE))
    for each in (ADAPTER, BASE):
        assert files_of(session, each.weights_digest) == each
    assert files_of(session, OTHER.weights_digest) is None
    assert len(kept(session)) == 2


def test_files_go_with_the_last_trace_of_their_content_and_a_base_with_its_last_adapter(session: Session) -> None:
    store_files(session, (ADAPTER, BASE))
    store_files(session, (OTHER, BASE))
    put_trace(session, "d", weights_digest=OTHER.weights_digest)
    gone = Gone()
    delete_files(session, [ADAPTER.weights_digest, OTHER.weights_digest], gone)
    assert kept(session) == {OTHER.weights_digest, BASE.weights_digest}
    session.execute(text("ALTER TABLE traces DISABLE TRIGGER USER"))
    session.execute(text("DELETE FROM traces"))
    delete_files(session, [OTHER.weights_digest], gone)
    assert kept(session) == set()
    assert gone.rows == {"weights_files": 3}


def test_the_first_attestation_of_a_key_stays(session: Session) -> None:
    audit = put_audit(session, "CANCELLED")

    def keep(key: str, signature: str) -> None:
        store.keep_attestation(
            session, "t", audit, "type", key, statement={"a": 1.5}, envelope={"signatures": [signature]}
        )

    keep("one", "first")
    keep("one", "second")
    keep("two", "third")
    found = store.list_attestations(session, "t", audit)
    assert [(each.key_id, each.envelope["signatures"]) for each in found] == [("one", ["first"]), ("two", ["third"])]
    assert store.find_attestation(session, "t", audit, "type", "one") == found[0]
    for tenant, kind, key in (("other", "type", "one"), ("t", "another", "one"), ("t", "type", "three")):
        assert store.find_attestation(session, tenant, audit, kind, key) is None
    assert store.list_attestations(session, "other", audit) == []
    put_trace(session, "d", weights_digest="w")
    assert [store.weights_of_trace(session, digest) for digest in ("d", "e")] == ["w", None]


@pytest.mark.parametrize("table", ["attestations", "weights_files"])
def test_neither_changes(session: Session, table: str) -> None:
    store_files(session, (BASE,))
    store.keep_attestation(
        session, "t", put_audit(session, "CANCELLED"), "type", "key", statement={"a": 1}, envelope={"b": 2}
    )
    with pytest.raises(DBAPIError):
        session.execute(text(f"UPDATE {table} SET created_at = now() - interval '1 day'"))
