"""The service on brokers and poolers of Debian's packages: audits to their end, also where a server dies meanwhile.

What is not installed is said, and left out (``python3 dev.py servers``).
"""

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from kombu import Connection
from pydantic import SecretStr
from sqlalchemy import URL, text

import spinal.cli.main
from devstack.processes import Child
from service.app import create_app
from service.database.sessions import require_sessions
from service.database.unit_of_work import Ledger, allow
from service.operations.migrate import head, upgrade
from service.platform.addresses import broker
from service.settings import Settings
from spinal.errors import DatabaseUnavailable, UsageError
from tests.conftest import HasUrl, Without, create_database
from tests.support.fleet import SHORT_TIMINGS, Fleet, fleet_environment
from tests.support.malformed_messages import HARMLESS, MESSAGES, RUN, SECRET
from tests.support.servers import (
    DIFFICULT,
    HOW_TO_HAVE_IT,
    Certificates,
    RabbitMq,
    RedisServer,
    find,
    pgbouncer,
    rabbitmq,
    running,
    server_folder,
    watched,
)
from tests.support.waiting import until
from worker import dispatcher

pytestmark = pytest.mark.server
MakeFleet = Callable[..., Fleet]


@pytest.fixture
def program(without: Without) -> Callable[[str], str]:
    def named(name: str) -> str:
        return find(name) or without(name, HOW_TO_HAVE_IT)

    return named


@pytest.fixture
def make_fleet(settings: Settings, ledger: Ledger, tmp_path: Path) -> Iterator[MakeFleet]:
    """``make_fleet(SPINAL_BROKER_URL=...)``: nothing runs yet; everything is killed afterwards."""
    (tmp_path / "double").mkdir()
    with ExitStack() as stack:

        def make(through: Settings | None = None, **environment: str) -> Fleet:
            seen = stack.enter_context(opened(through)) if through else ledger
            nowhere: Any = SimpleNamespace(url="redis://127.0.0.1:1/0")
            own = fleet_environment(settings, nowhere, tmp_path) | SHORT_TIMINGS | environment
            made = Fleet(through or settings, seen, nowhere, tmp_path, own)
            stack.callback(made.close)
            return made

        yield make


def opened(settings: Settings) -> Any:
    from contextlib import closing

    return closing(Ledger(settings))


def of(url: URL, password: bool = True) -> str:
    return url.render_as_string(hide_password=not password)


# poolers


@pytest.fixture
def behind(settings: Settings, postgres: HasUrl, program: Callable[[str], str]) -> Iterator[Callable[..., Settings]]:
    """``behind("transaction")`` -> settings of the test's database behind a PgBouncer in that mode."""
    with ExitStack() as stack:

        def make(mode: str, *, says: str | None = None, ignores_options: bool = False) -> Settings:
            pooler = stack.enter_context(
                pgbouncer(program("pgbouncer"), postgres.url, mode, ignores_options=ignores_options)
            )
            through = pooler.set(database=settings.database_url.get_secret_value().rpartition("/")[2])
            direct = settings.database_url if (says or mode) == "transaction" else SecretStr("")
            return settings.model_copy(
                update={
                    "database_url": SecretStr(of(through)),
                    "database_direct_url": direct,
                    "db_pooler": says or mode,
                }
            )

        yield make


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_limits_are_in_force_behind_a_pooler(mode: str, behind: Callable[..., Settings]) -> None:
    settings = behind(mode).model_copy(
        update={"db_statement_timeout_s": 0.4, "db_lock_timeout_s": 0.2, "db_pool_size": 4, "db_pool_timeout_s": 60.0}
    )
    require_sessions(settings)
    with opened(settings) as ledger:
        with ledger.read() as session:
            session.execute(text("SELECT 1"))
            assert [
                session.scalar(text(f"SHOW {name}"))
                for name in (
                    "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "timezone",
                    "transaction_read_only",
                )
            ] == ["400ms", "200ms", "15s", "UTC", "on"]  # fmt: skip
        with pytest.raises(DatabaseUnavailable, match="QueryCanceled"), ledger.begin() as session:
            session.execute(text("SELECT pg_sleep(20)"))
        with ledger.begin() as session:
            allow(session, 5.0)
            session.execute(text("SELECT pg_sleep(0.6)"))
            assert session.scalar(text("SHOW transaction_read_only")) == "off"

        # Many more than there are sessions, each statement often enough to be prepared where that is not kept from it.
        def turn(number: int) -> None:
            with ledger.begin() as session:
                assert session.scalar(text("SELECT CAST(:n AS int) + 1"), {"n": number}) == number + 1
                assert session.scalar(text("SHOW statement_timeout")) == "400ms"

        with ThreadPoolExecutor(12) as threads:
            list(threads.map(turn, range(400)))


@pytest.mark.parametrize(
    ("mode", "says", "ignores_options", "reason"),
    [
        ("transaction", "none", False, "unsupported startup parameter"),
        ("session", "none", False, "unsupported startup parameter"),
        ("transaction", "none", True, "statement_timeout"),
        ("session", "none", True, "not in force"),
        ("transaction", "session", False, "share a session"),
    ],
)
def test_a_pooler_that_settings_do_not_name_is_refused_at_the_start(
    mode: str, says: str, ignores_options: bool, reason: str, behind: Callable[..., Settings]
) -> None:
    settings = behind(mode, says=says, ignores_options=ignores_options)
    with pytest.raises(UsageError, match=reason) as refused:
        require_sessions(settings)
    assert "SPINAL_DB_POOLER=transaction" in str(refused.value.hint)
    # Whoever was there before the database is told by every transaction.
    if reason != "share a session":
        with opened(settings) as ledger, pytest.raises(DatabaseUnavailable, match=reason), ledger.read():
            pass


def test_a_direct_address_that_leads_to_the_pooler_is_refused(behind: Callable[..., Settings]) -> None:
    settings = behind("transaction")
    twice = settings.model_copy(update={"database_direct_url": settings.database_url})
    with pytest.raises(UsageError, match="SPINAL_DATABASE_DIRECT_URL does not lead past the pooler"):
        require_sessions(twice)


def test_a_database_behind_a_pooler_is_migrated_past_it(postgres: HasUrl, program: Callable[[str], str]) -> None:
    with (
        create_database(postgres.url, "behind_a_pooler") as direct,
        pgbouncer(program("pgbouncer"), postgres.url, "transaction") as pooler,
    ):
        through = of(pooler.set(database="behind_a_pooler"))
        settings = Settings(database_url=through, database_direct_url=direct, db_pooler="transaction")
        upgrade(settings)
        with opened(settings) as ledger, ledger.read() as session:
            assert session.scalar(text("SELECT version_num FROM alembic_version")) == head()


def test_audits_end_behind_a_pooler_in_transaction_mode_also_when_workers_are_killed(
    behind: Callable[..., Settings], make_fleet: MakeFleet, valkey: Any
) -> None:
    through = behind("transaction")
    fleet = make_fleet(
        through,
        SPINAL_DATABASE_URL=through.database_url.get_secret_value(),
        SPINAL_DATABASE_DIRECT_URL=through.database_direct_url.get_secret_value(),
        SPINAL_DB_POOLER="transaction",
        SPINAL_BROKER_URL=valkey.url,
    )
    fleet.hold()
    fleet.start_dispatcher()
    fleet.start_worker(concurrency=1)
    audits = [fleet.submit(seed) for seed in range(2)]
    with TestClient(create_app(through)) as api:
        assert api.get("/readyz").status_code == 200
        answer = api.post("/v1/audits", json={"candidate": "local:sft", "prompt_set": "hh-harmless-64"})
        assert answer.status_code == 202
        audits.append(UUID(answer.json()["id"]))
    fleet.wait_for_call()
    fleet.children["worker"].kill()
    fleet.go_on()
    fleet.start_worker("another", concurrency=1)
    for audit in audits:
        fleet.wait_for(audit, "SUCCEEDED", timeout=90.0)
    assert "not listening" not in fleet.log("dispatcher")


def test_whatever_is_started_refuses_a_pooler_that_settings_do_not_name(
    behind: Callable[..., Settings], make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    url = behind("transaction", says="none").database_url.get_secret_value()
    fleet = make_fleet(SPINAL_DATABASE_URL=url)
    worker = fleet.start_worker()
    monkeypatch.setenv("SPINAL_DATABASE_URL", url)
    monkeypatch.setenv("SPINAL_KEY_PEPPER", "pepper")
    monkeypatch.setattr(sys, "argv", ["spinal", "doctor"])
    # Signals are those of this process.
    monkeypatch.setattr(spinal.cli.main, "raise_on_signals", lambda **_: None)
    said: dict[str, str] = {}
    started: dict[str, Callable[[], object]] = {
        "api": create_app, "dispatcher": dispatcher.main, "doctor": spinal.cli.main.main
    }  # fmt: skip
    for name, main in started.items():
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code
        said[name] = f"{ended.value.code}\n{capfd.readouterr().err}"
    assert worker.process.wait(120) != 0
    said["worker"] = fleet.log("worker")
    for name, lines in said.items():
        [cause] = [line for line in lines.splitlines() if line.startswith("error: ")]
        assert "unsupported startup parameter" in cause, name
        assert "SPINAL_DB_POOLER=transaction" in lines, name
        assert "Traceback" not in lines, name


# brokers


def test_audits_end_while_sentinels_make_another_server_the_master(
    program: Callable[[str], str], make_fleet: MakeFleet
) -> None:
    with watched(program("redis-server")) as redis:
        options = {"master_name": redis.NAME, "sentinel_kwargs": {"password": redis.sentinels[0].password}}
        fleet = make_fleet(
            SPINAL_BROKER_URL=";".join(f"sentinel://127.0.0.1:{sentinel.port}" for sentinel in redis.sentinels) + "/0",
            SPINAL_BROKER_PASSWORD=DIFFICULT,
            SPINAL_BROKER_TRANSPORT_OPTIONS=json.dumps(options),
        )
        fleet.start_dispatcher()
        fleet.start_worker()
        fleet.wait_for(fleet.submit(reference=None), "SUCCEEDED", timeout=90.0)
        redis.first.kill()
        during = [fleet.submit(reference=None, max_tokens=20 + number) for number in range(3)]
        until(lambda: redis.master_port() == redis.second.port, "the sentinels to agree on the other server")
        # Nobody is left who could have kept a doorbell from before.
        redis.sentinels[1].kill()
        for audit in during:
            fleet.wait_for(audit, "SUCCEEDED", timeout=90.0)
        fleet.ended_once(runs=4, traces=4)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    (tmp_path / "pki").mkdir()
    return Certificates(tmp_path / "pki")


@pytest.fixture
def others(tmp_path: Path) -> Certificates:
    (tmp_path / "others").mkdir()
    return Certificates(tmp_path / "others")


def answers(settings: Settings) -> bool:
    where = broker(settings, socket_timeout=5.0, socket_connect_timeout=5.0)
    with Connection(where.url, ssl=where.ssl, transport_options=where.transport_options, connect_timeout=5) as asked:
        # A certificate that is refused is not asked for again two seconds later.
        asked.ensure_connection(max_retries=1, interval_start=0)
        channel: Any = asked.default_channel
        channel.queue_declare("asked")
    return True


def verified_alike(given: dict[str, Any], certificates: Certificates, others: Certificates) -> None:
    """Whoever answers has to show a certificate of the authority that is named, or of the system's, unless somebody
    says outright that it need not."""
    assert answers(Settings.model_validate(given | {"broker_tls_ca_file": certificates.ca}))
    for wrong in ({"broker_tls_ca_file": others.ca}, {}):
        with pytest.raises(Exception, match=r"(?i)certificate"):
            answers(Settings.model_validate(given | wrong))
    assert answers(Settings.model_validate(given | {"broker_tls_verify": False}))


def test_redis_with_tls_is_verified_and_audits_end(
    program: Callable[[str], str], make_fleet: MakeFleet, certificates: Certificates, others: Certificates
) -> None:
    with server_folder() as folder:
        own = certificates.copied(folder)
        lines = (f"tls-cert-file {own.certificate}", f"tls-key-file {own.key}", f"tls-ca-cert-file {own.ca}")
        server = RedisServer(program("redis-server"), folder, *lines, "tls-auth-clients no", tls=True)
        with running(server):
            url = f"rediss://127.0.0.1:{server.port}/0"
            verified_alike({"broker_url": url, "broker_password": DIFFICULT}, certificates, others)
            (secret := folder / "password").write_text(f"{DIFFICULT}\n", encoding="utf-8")
            fleet = make_fleet(
                SPINAL_BROKER_URL=url,
                SPINAL_BROKER_PASSWORD_FILE=str(secret),
                SPINAL_BROKER_TLS_CA_FILE=str(certificates.ca),
            )
            fleet.start_dispatcher()
            fleet.start_worker()
            fleet.wait_for(fleet.submit(reference=None), "SUCCEEDED", timeout=90.0)


def test_rabbitmq_is_verified_killed_and_given_nonsense_and_audits_end(
    program: Callable[[str], str], make_fleet: MakeFleet, certificates: Certificates, others: Certificates
) -> None:
    with rabbitmq(program("rabbitmq-server"), certificates) as server:
        tls = {"broker_url": f"amqps://auditor@127.0.0.1:{server.tls_port}/", "broker_password": server.PASSWORD}
        verified_alike(tls, certificates, others)
        fleet = make_fleet(
            SPINAL_BROKER_URL=f"{tls['broker_url']}/",
            SPINAL_BROKER_PASSWORD=server.PASSWORD,
            SPINAL_BROKER_TLS_CA_FILE=str(certificates.ca),
        )
        fleet.start_dispatcher()
        worker = fleet.start_worker()
        fleet.wait_for(fleet.submit(reference=None), "SUCCEEDED", timeout=90.0)
        throw_nonsense(fleet, worker, server)
        fleet.hold()
        during = [fleet.submit(reference=None, max_tokens=20)]
        fleet.wait_for_call(2)
        server.kill()
        during.append(fleet.submit(reference=None, max_tokens=21))
        fleet.go_on()
        server.start()
        for audit in during:
            fleet.wait_for(audit, "SUCCEEDED", timeout=90.0)
        fleet.ended_once(runs=3, traces=3)
        assert worker.alive()


def throw_nonsense(fleet: Fleet, worker: Child, server: RabbitMq) -> None:
    settings = Settings(broker_url=f"amqp://auditor@127.0.0.1:{server.port}//", broker_password=server.PASSWORD)
    with Connection(broker(settings).url) as connection:
        channel: Any = connection.default_channel

        def depth() -> int:
            return int(channel.queue_declare("cpu", passive=True).message_count)

        for message in (*MESSAGES.values(), *HARMLESS.values()):
            channel.basic_publish(
                channel.prepare_message(
                    message.body,
                    content_type=message.content_type,
                    content_encoding=message.content_encoding,
                    headers=message.headers,
                ),
                exchange="",
                routing_key="cpu",
            )
        thrown = "threw a message away"
        until(lambda: fleet.log("worker").count(thrown) == len(MESSAGES), "all to be thrown away")
        until(lambda: fleet.log("worker").count(f"rung={RUN}") == len(HARMLESS), "a doorbell without a run")
        assert depth() == 0
    assert worker.alive()
    assert SECRET not in fleet.log("worker")
    assert "re-establish" not in fleet.log("worker")
