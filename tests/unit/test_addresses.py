"""Addresses of database and broker: what settings say is what drivers are given, and what is wrong is said in one line
that names the setting and repeats nothing."""

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from psycopg.conninfo import conninfo_to_dict

from service.platform.addresses import broker, conninfo, database_url, direct_database_url
from service.settings import Settings, read_settings, settings_at_start
from spinal.errors import UsageError
from tests.support.servers import Certificates

SECRET = "hush/hush"
CA_FILE = "SPINAL_BROKER_TLS_CA_FILE"
passwords = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


def escaped(text: str) -> str:
    return quote(text, safe="")


@hypothesis.settings(max_examples=15)
@given(password=passwords)
def test_any_password_arrives_apart_or_escaped(password: str) -> None:
    whole = f"postgresql+psycopg://some%40one:{escaped(password)}@h:1/d"
    for settings in (
        Settings(database_url="postgres://some%40one@h:1/d?sslmode=require", db_password=password),
        Settings(database_url=whole),
    ):
        _, options = database_url(settings).get_dialect()().create_connect_args(database_url(settings))
        for found in (options, conninfo_to_dict(conninfo(direct_database_url(settings)))):
            assert (found["user"], found["password"], found["host"], str(found["port"])) == (
                "some@one",
                password,
                "h",
                "1",
            )
    for scheme, path in (("redis", "/3"), ("amqp", "/"), ("amqp", "//v"), ("rediss", "/3"), ("amqps", "")):
        for settings in (
            Settings(broker_url=f"{scheme}://some%40one@[::1]:7{path}", broker_password=password),
            Settings(broker_url=f"{scheme}://some%40one:{escaped(password)}@[::1]:7{path}"),
        ):
            kombu: Any = Connection(broker(settings).url)
            assert (kombu.hostname, kombu.port, kombu.userid, kombu.password) == ("::1", 7, "some@one", password)
            expected = {"/3": "3", "//v": "/v"}.get(path)
            assert (kombu.virtual_host if expected else "") == (expected or "")


@hypothesis.settings(max_examples=15)
@given(password=passwords)
def test_sentinels_are_given_every_host_and_the_password_of_the_servers(password: str) -> None:
    settings = Settings(
        broker_url="sentinel://a:1;b:2;sentinel://c/0",
        broker_password=password,
        broker_transport_options='{"master_name": "m", "sentinel_kwargs": {"password": "other"}, "socket_timeout": 3}',
    )
    where = broker(settings, socket_timeout=1.0, socket_connect_timeout=2.0)
    found = Connection(where.url, transport_options=where.transport_options)
    assert (found.password, len(found.alt)) == (password, 3)
    assert where.transport_options == {
        "master_name": "m",
        "socket_timeout": 3,
        "socket_connect_timeout": 2.0,
        "sentinel_kwargs": {"password": "other", "socket_timeout": 1.0, "socket_connect_timeout": 2.0},
    }


def test_a_server_with_tls_is_verified_unless_somebody_says_outright_that_it_is_not(tmp_path: Path) -> None:
    authority = Certificates(tmp_path).ca

    def asked(url: str, **other: Any) -> Any:
        return broker(Settings.model_validate({"broker_url": url, **other})).ssl

    assert asked("rediss://h") == {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    assert asked("amqps://h") == {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
    assert asked("rediss://h", broker_tls_ca_file=authority)["ssl_ca_certs"] == str(authority)
    assert asked(f"rediss://h?ssl_ca_certs={authority}")["ssl_ca_certs"] == str(authority)
    assert asked("amqps://h", broker_tls_ca_file=authority)["ca_certs"] == str(authority)
    assert asked("rediss://h", broker_tls_verify=False) == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    assert asked("rediss://h?ssl_cert_reqs=none") == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    assert asked("amqps://h", broker_tls_verify=False) == {"cert_reqs": ssl.CERT_NONE}
    assert asked("redis://h") is asked("amqp://h") is False
    master = '{"master_name": "m"}'
    found = broker(Settings(broker_url="sentinel://h", broker_tls=True, broker_transport_options=master))
    assert found.ssl == {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    assert found.transport_options["sentinel_kwargs"] == {"ssl": True, **found.ssl}


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_an_address_as_providers_give_it_is_taken(scheme: str) -> None:
    url = database_url(Settings(database_url=f"{scheme}://u:p@h/d?sslmode=require"))
    assert url.render_as_string(hide_password=False) == "postgresql+psycopg://u:p@h/d?sslmode=require"


def in_file(content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / "secret").write_bytes(content)
        return str(folder / "secret")

    return write


WRONG: dict[str, tuple[str, Mapping[str, str | Callable[[Path], str]]]] = {
    "no address": ("SPINAL_DATABASE_URL", {"DATABASE_URL": "hush/hush"}),
    "nothing": ("SPINAL_DATABASE_URL", {"DATABASE_URL": ""}),
    "another database": ("SPINAL_DATABASE_URL", {"DATABASE_URL": f"mysql://u:{escaped(SECRET)}@h/d"}),
    "SQLite": ("SPINAL_DATABASE_URL", {"DATABASE_URL": "sqlite:///hush/hush"}),
    "another driver": ("SPINAL_DATABASE_URL", {"DATABASE_URL": "postgresql+asyncpg://u:hush@h/d"}),
    "a port of letters": ("SPINAL_DATABASE_URL", {"DATABASE_URL": "postgresql://u:hush@h:port/d"}),
    "an endless port": ("SPINAL_DATABASE_URL", {"DATABASE_URL": "postgresql://u:hush@h:999999/d"}),
    "a raw password": ("SPINAL_DATABASE_URL", {"DATABASE_URL": f"postgresql://u:p@ss{SECRET}@h:5432/d"}),
    "an unknown option": ("SPINAL_DATABASE_URL", {"DATABASE_URL": "postgresql://u:hush@h/d?prepare_threshold=hush"}),
    "two passwords": ("SPINAL_DB_PASSWORD", {"DATABASE_URL": "postgresql://u:hush@h/d", "DB_PASSWORD": SECRET}),
    "a password twice": ("SPINAL_DB_PASSWORD_FILE", {"DB_PASSWORD_FILE": in_file(b"hush"), "DB_PASSWORD": SECRET}),
    "a missing file": ("SPINAL_DB_PASSWORD_FILE", {"DB_PASSWORD_FILE": "/hush/hush"}),
    "a folder": ("SPINAL_DB_PASSWORD_FILE", {"DB_PASSWORD_FILE": "/"}),
    "an empty file": ("SPINAL_BROKER_PASSWORD_FILE", {"BROKER_PASSWORD_FILE": in_file(b"\n")}),
    "a file of bytes": ("SPINAL_KEY_PEPPER_FILE", {"KEY_PEPPER_FILE": in_file(b"hush\xff")}),
    "a pepper twice": ("SPINAL_KEY_PEPPER_FILE", {"KEY_PEPPER_FILE": in_file(b"hush"), "KEY_PEPPER": SECRET}),
    "an address twice": ("SPINAL_DATABASE_URL_FILE", {"DATABASE_URL_FILE": in_file(b"x"), "DATABASE_URL": SECRET}),
    "a wrong file": ("SPINAL_BROKER_URL", {"BROKER_URL_FILE": in_file(b"hush/hush")}),
    "no direct address": ("SPINAL_DATABASE_DIRECT_URL", {"DB_POOLER": "transaction"}),
    "a wrong direct address": ("SPINAL_DATABASE_DIRECT_URL", {"DATABASE_DIRECT_URL": "hush/hush"}),
    "another pooler": ("SPINAL_DB_POOLER", {"DB_POOLER": SECRET}),
    "another broker": ("SPINAL_BROKER_URL", {"BROKER_URL": f"kafka://{SECRET}"}),
    "no broker": ("SPINAL_BROKER_URL", {"BROKER_URL": ""}),
    "no host": ("SPINAL_BROKER_URL", {"BROKER_URL": "redis:///0"}),
    "a raw password of the broker": ("SPINAL_BROKER_URL", {"BROKER_URL": f"redis://:p@ss{SECRET}@h:6379/0"}),
    "a raw #": ("SPINAL_BROKER_URL", {"BROKER_URL": "redis://:hush#hush@h:6379/0"}),
    "a broker's port of letters": ("SPINAL_BROKER_URL", {"BROKER_URL": "amqp://u:hush@h:port/"}),
    "a broker's endless port": ("SPINAL_BROKER_URL", {"BROKER_URL": "redis://:hush@h:99999/"}),
    "half an address": ("SPINAL_BROKER_URL", {"BROKER_URL": "redis://[::1"}),
    "a space": ("SPINAL_BROKER_URL", {"BROKER_URL": "redis://:hu sh@h"}),
    "a database of letters": ("SPINAL_BROKER_URL", {"BROKER_URL": "redis://:hush@h/first"}),
    "an unknown option of the broker": ("SPINAL_BROKER_URL", {"BROKER_URL": "redis://h/0?master_name=hush"}),
    "two schemes": ("SPINAL_BROKER_URL", {"BROKER_URL": "redis://h;amqp://h"}),
    "a broker's two passwords": ("SPINAL_BROKER_PASSWORD", {"BROKER_URL": "amqp://u:hush@h", "BROKER_PASSWORD": "x"}),
    "sentinels of nobody": ("SPINAL_BROKER_TRANSPORT_OPTIONS", {"BROKER_URL": "sentinel://:hush@h"}),
    "options that are no JSON": ("SPINAL_BROKER_TRANSPORT_OPTIONS", {"BROKER_TRANSPORT_OPTIONS": "{hush"}),
    "options that are a list": ("SPINAL_BROKER_TRANSPORT_OPTIONS", {"BROKER_TRANSPORT_OPTIONS": '["hush"]'}),
    "verified without TLS": ("SPINAL_BROKER_URL", {"BROKER_TLS_CA_FILE": "/hush"}),
    "no certificates": (CA_FILE, {"BROKER_URL": "rediss://h", "BROKER_TLS_CA_FILE": in_file(b"hush")}),
    "certificates of nowhere": (CA_FILE, {"BROKER_URL": "amqps://h", "BROKER_TLS_CA_FILE": "/hush"}),
    "TLS of another kind": ("SPINAL_BROKER_URL", {"BROKER_URL": "rediss://:hush@h?ssl_cert_reqs=hush"}),
    "a number that is none": ("SPINAL_LEASE_S", {"LEASE_S": "hush"}),
    "roots that are no JSON": ("SPINAL_TENANT_MODEL_ROOTS", {"TENANT_MODEL_ROOTS": "{hush"}),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_one_line_that_names_the_setting(
    wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, given = WRONG[wrong]
    for variable, value in given.items():
        monkeypatch.setenv(f"SPINAL_{variable}", value if isinstance(value, str) else value(tmp_path))
    with pytest.raises(UsageError) as refused:
        read_settings()
    assert name in refused.value.detail
    assert refused.value.hint
    with pytest.raises(SystemExit) as ended:
        settings_at_start()
    said = str(ended.value.code)
    assert said.startswith("error: ")
    assert name in said
    assert "\n" not in said
    assert "hush" not in said + str(refused.value.to_problem())
    for error in (refused.value, ended.value):
        # Tracebacks show what an error came from.
        assert error.__suppress_context__ or error.__context__ is None or "hush" not in str(error.__context__)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_secrets_are_read_from_files_without_the_end_of_the_line(
    end: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {
        "DATABASE_URL": "postgres://u@h/d",
        "DATABASE_DIRECT_URL": "postgres://u@direct/d",
        "DB_PASSWORD": " ü/@ ",
        "BROKER_URL": "sentinel://h",
        "BROKER_PASSWORD": "%41#",
        "BROKER_TRANSPORT_OPTIONS": '{"master_name": "m"}',
        "KEY_PEPPER": "pepper ",
    }
    for name, value in given.items():
        (tmp_path / name).write_bytes(value.encode() + end)
        monkeypatch.setenv(f"SPINAL_{name}_FILE", str(tmp_path / name))
        # As compose hands on what is not set.
        monkeypatch.setenv(f"SPINAL_{name}", "")
    settings = read_settings()
    assert (database_url(settings).host, database_url(settings).password) == ("h", " ü/@ ")
    assert direct_database_url(settings).host == "direct"
    assert broker(settings).url == "sentinel://:%2541%23@h/"
    assert settings.key_pepper.get_secret_value() == "pepper "
