"""Where the database and the broker are: the one place that makes addresses and connection options of settings.

Addresses are given whole, or without a password and the password apart, as it is: what would have to be escaped in an
address (``@``, ``/``, ``#``, ``%``) stands in a password of its own without any thought. No error of this module
repeats what it was given.
"""

import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, exc, make_url

from spinal.errors import UsageError

if TYPE_CHECKING:
    from service.settings import Settings

DIRECT = "SPINAL_DATABASE_DIRECT_URL"
DRIVER = "postgresql+psycopg"
DRIVERS = frozenset({"postgres", "postgresql", DRIVER})
"""Names under which providers hand out addresses of Postgres; one driver serves all."""
TLS_SCHEMES = frozenset({"rediss", "amqps"})
REDIS_SCHEMES = frozenset({"redis", "rediss", "redis+socket", "sentinel"})
SCHEMES = REDIS_SCHEMES | {"amqp", "amqps"}
TLS_QUERY = {
    "ssl_ca_certs": "ca_certs",
    "ssl_certfile": "certfile",
    "ssl_keyfile": "keyfile",
    "ssl_check_hostname": "check_hostname",
    "ssl_cert_reqs": "cert_reqs",
}
"""What an address of a broker may say of TLS."""
AFTER_THE_HOST = (
    "has an @ behind the host: escape @ / # ? % in its password (as %40 %2F %23 %3F %25), or put the password, as it "
    "is, in {apart}"
)


# the database


def database_url(settings: "Settings") -> URL:
    """Address of the database, by way of the pooler where there is one. Raises UsageError."""
    return _database_url("SPINAL_DATABASE_URL", settings.database_url.get_secret_value(), settings)


def direct_database_url(settings: "Settings") -> URL:
    """Address at which a session stays one: for LISTEN, and for locks that outlive a transaction. That of the database
    itself, unless another one is set. Raises UsageError."""
    direct = settings.database_direct_url.get_secret_value()
    if not direct:
        return database_url(settings)
    return _database_url(DIRECT, direct, settings)


def conninfo(url: URL) -> str:
    """``url`` as psycopg itself takes it, every character of the password included."""
    arguments, options = url.get_dialect()().create_connect_args(url)
    assert not arguments
    return make_conninfo(**options)


def _database_url(name: str, given: str, settings: "Settings") -> URL:
    hint = "for example postgresql://user@host:5432/spinal, with the password in SPINAL_DB_PASSWORD"
    try:
        url = make_url(given)
    except exc.ArgumentError:
        raise UsageError(f"{name} is not the address of a Postgres database", hint=hint) from None
    except ValueError:
        raise UsageError(f"{name} has a port that is not a number", hint=hint) from None
    if url.drivername not in DRIVERS:
        raise UsageError(
            f"{name} is not the address of a Postgres database: it begins with none of "
            f"{', '.join(f'{known}://' for known in sorted(DRIVERS))}",
            hint=hint,
        )
    if any("@" in (part or "") for part in (url.host, url.database)):
        raise UsageError(f"{name} {AFTER_THE_HOST.format(apart='SPINAL_DB_PASSWORD')}", hint=hint)
    if url.port is not None and not 0 < url.port < 2**16:
        raise UsageError(f"{name} has a port that is not between 1 and 65535", hint=hint)
    url = url.set(drivername=DRIVER)
    if password := settings.db_password.get_secret_value():
        given_whole = name == DIRECT or "database_url" in settings.model_fields_set
        if url.password is not None and given_whole:
            raise UsageError(f"both {name} and SPINAL_DB_PASSWORD give a password", hint="leave one of them out")
        url = url.set(password=password)
    try:
        conninfo(url)
    except (psycopg.Error, exc.ArgumentError, ValueError, TypeError):
        raise UsageError(
            f"{name} has an option that a connection to Postgres does not know",
            hint="leave out of it what stands after the ? and is no parameter of libpq",
        ) from None
    return url


# the broker


@dataclass(frozen=True)
class Broker:
    """What Celery and kombu need to reach the broker."""

    url: str
    """Every host of it, separated by ``;``, with user and password, escaped."""
    ssl: dict[str, Any] | bool
    """How the server is verified; False without TLS."""
    transport_options: dict[str, Any]


@dataclass(frozen=True)
class _Host:
    scheme: str
    user: str | None
    password: str | None
    host: str
    port: int | None
    path: str
    query: Mapping[str, str]

    def render(self) -> str:
        """As kombu reads it: every part escaped once."""
        user = "" if self.user is None else quote(self.user, safe="")
        secret = "" if self.password is None else f":{quote(self.password, safe='')}"
        at = "@" if user or secret else ""
        port = "" if self.port is None else f":{self.port}"
        if self.scheme == "redis+socket":
            database = f"?virtual_host={self.query['virtual_host']}" if "virtual_host" in self.query else ""
            return f"{self.scheme}://{user}{secret}{at}/{quote(self.path, safe='/')}{database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{user}{secret}{at}{host}{port}/{quote(self.path, safe='')}"


def broker(settings: "Settings", **own: Any) -> Broker:
    """The broker of the settings. ``own`` are the transport options of this process; those of the settings come before
    them. Raises UsageError."""
    hosts = list(_hosts(settings))
    given = _given_options(settings)
    first = hosts[0]
    tls = _tls(settings, first)
    options: dict[str, Any] = {**own, **given}
    if first.scheme == "sentinel":
        if not isinstance(options.get("master_name"), str):
            raise UsageError(
                "SPINAL_BROKER_URL names sentinels, and SPINAL_BROKER_TRANSPORT_OPTIONS no master_name",
                hint='SPINAL_BROKER_TRANSPORT_OPTIONS={"master_name": "mymaster"}',
            )
        asked = options.get("sentinel_kwargs", {})
        if not isinstance(asked, dict):
            raise UsageError(
                "SPINAL_BROKER_TRANSPORT_OPTIONS has sentinel_kwargs that are no object",
                hint='for example {"master_name": "mymaster", "sentinel_kwargs": {"password": "..."}}',
            )
        # Sentinels themselves are asked over TLS, too, and never waited for without end.
        limits = {name: own[name] for name in ("socket_timeout", "socket_connect_timeout") if name in own}
        options["sentinel_kwargs"] = {**limits, **({"ssl": True, **_for_redis(tls)} if tls else {}), **asked}
    if not tls:
        verified: dict[str, Any] | bool = False
    elif first.scheme in REDIS_SCHEMES:
        verified = _for_redis(tls)
    else:
        verified = _for_amqp(tls)
    return Broker(";".join(host.render() for host in hosts), verified, options)


def _hosts(settings: "Settings") -> Iterator[_Host]:
    password = settings.broker_password.get_secret_value()
    scheme = ""
    for given in settings.broker_url.get_secret_value().split(";"):
        host = _host(given, scheme)
        if scheme and host.scheme != scheme:
            raise _refuse_broker("mixes schemes: every host of it must have the same")
        scheme = host.scheme
        if password:
            if host.password is not None:
                raise UsageError(
                    "both SPINAL_BROKER_URL and SPINAL_BROKER_PASSWORD give a password", hint="leave one of them out"
                )
            host = _Host(host.scheme, host.user, password, host.host, host.port, host.path, host.query)
        yield host


def _host(given: str, scheme: str) -> _Host:
    """One host; ``scheme`` is that of the one before it, which need not be repeated."""
    named, found, rest = given.partition("://")
    if not found:
        named, rest = scheme, given
    if named not in SCHEMES:
        known = ", ".join(f"{one}://" for one in sorted(SCHEMES))
        raise _refuse_broker(f"is not the address of a broker: it begins with none of {known}")
    if any(ord(character) <= ord(" ") or ord(character) == 127 for character in rest):
        raise _refuse_broker("has a space or a control character: escape it, or put the password in "
                             "SPINAL_BROKER_PASSWORD")  # fmt: skip
    try:
        parts = urlsplit(f"//{rest}", scheme="x")
        user, secret, host = parts.username, parts.password, parts.hostname or ""
    except ValueError:
        raise _refuse_broker("is not the address of a broker") from None
    if "@" in parts.path + parts.query + parts.fragment or parts.fragment:
        raise _refuse_broker(AFTER_THE_HOST.format(apart="SPINAL_BROKER_PASSWORD"))
    try:
        port = parts.port
    except ValueError:
        raise _refuse_broker("has a port that is not a number up to 65535") from None
    path = unquote(parts.path.removeprefix("/"))
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if named == "redis+socket":
        if host or not path:
            raise _refuse_broker("names no socket: redis+socket:///path/of/the/socket")
    elif not host:
        raise _refuse_broker("names no host")
    if named in REDIS_SCHEMES - {"redis+socket"} and path and not path.isdecimal():
        raise _refuse_broker("ends in what is no number of a Redis database")
    if unknown := set(query) - set(TLS_QUERY) - ({"virtual_host"} if named == "redis+socket" else set()):
        raise _refuse_broker(
            f"has {len(unknown)} options that are not known behind the ?: "
            "they belong in SPINAL_BROKER_TRANSPORT_OPTIONS"
        )
    return _Host(
        named,
        None if not user else unquote(user),
        None if secret is None else unquote(secret),
        host,
        port,
        path,
        query,
    )


def _refuse_broker(what: str) -> UsageError:
    return UsageError(
        f"SPINAL_BROKER_URL {what}",
        hint="for example redis://host:6379/0 or amqp://user@host/, with the password in SPINAL_BROKER_PASSWORD",
    )


def _given_options(settings: "Settings") -> dict[str, Any]:
    try:
        given = json.loads(settings.broker_transport_options.get_secret_value() or "{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise UsageError(
            "SPINAL_BROKER_TRANSPORT_OPTIONS is not an object in JSON",
            hint='for example {"master_name": "mymaster"}',
        )
    return given


def _tls(settings: "Settings", first: _Host) -> dict[str, Any]:
    """How the server is verified, by the names of the standard library; empty without TLS. It is verified unless
    somebody says outright that it shall not be."""
    asked = {TLS_QUERY[name]: value for name, value in first.query.items() if name in TLS_QUERY}
    if not (settings.broker_tls or first.scheme in TLS_SCHEMES):
        if asked or settings.broker_tls_ca_file or not settings.broker_tls_verify:
            raise UsageError(
                "SPINAL_BROKER_URL is an address without TLS, and settings say how TLS is verified",
                hint="use rediss:// or amqps://, or SPINAL_BROKER_TLS=true for sentinels",
            )
        return {}
    if first.scheme == "redis+socket":
        raise _refuse_broker("names a socket, over which there is no TLS")
    names = {"required": True, "cert_required": True, "none": False, "cert_none": False}
    verify = names.get(asked.pop("cert_reqs", "required").lower())
    if verify is None:
        raise _refuse_broker("has an ssl_cert_reqs that is neither required nor none")
    verify = verify and settings.broker_tls_verify
    if "ca_certs" in asked and settings.broker_tls_ca_file:
        raise UsageError(
            "both SPINAL_BROKER_URL and SPINAL_BROKER_TLS_CA_FILE name a CA file", hint="leave one of them out"
        )
    check_hostname = asked.pop("check_hostname", "true").lower() != "false"
    found: dict[str, Any] = dict(asked)
    if settings.broker_tls_ca_file:
        found["ca_certs"] = str(settings.broker_tls_ca_file)
    for name, file in found.items():
        apart = settings.broker_tls_ca_file is not None and name == "ca_certs"
        setting = "SPINAL_BROKER_TLS_CA_FILE" if apart else "SPINAL_BROKER_URL"
        _require_readable(Path(file), setting, pem=name == "ca_certs")
    return found | {"verify": verify, "check_hostname": verify and check_hostname}


def _require_readable(file: Path, setting: str, *, pem: bool) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise UsageError(
            f"{setting} names a file that cannot be read ({type(error).__name__})", hint=f"set {setting} right"
        ) from None
    if pem:
        try:
            ssl.create_default_context().load_verify_locations(file)
        except (ssl.SSLError, OSError):
            raise UsageError(
                f"{setting} names a file that holds no certificates", hint="it must be certificates in PEM"
            ) from None


def _for_redis(tls: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ssl_cert_reqs": "required" if tls["verify"] else "none",
        "ssl_check_hostname": tls["check_hostname"],
        **{f"ssl_{name}": tls[name] for name in ("ca_certs", "certfile", "keyfile") if name in tls},
    }


def _for_amqp(tls: Mapping[str, Any]) -> dict[str, Any]:
    # None is the host that is connected to (``worker/broker.py``); without the member no name is held to anything.
    named = {"server_hostname": None} if tls["check_hostname"] else {}
    return {
        "cert_reqs": ssl.CERT_REQUIRED if tls["verify"] else ssl.CERT_NONE,
        **named,
        **{name: tls[name] for name in ("ca_certs", "certfile", "keyfile") if name in tls},
    }


# all of them


def check_addresses(settings: "Settings") -> None:
    """Raises UsageError, which names the setting, where one of them cannot be an address."""
    database_url(settings)
    if settings.database_direct_url.get_secret_value():
        direct_database_url(settings)
    elif settings.db_pooler == "transaction":
        raise UsageError(
            "SPINAL_DB_POOLER=transaction needs SPINAL_DATABASE_DIRECT_URL: LISTEN and migrations need a session of "
            "their own",
            hint="set it to the address of Postgres itself, or of a pool in session mode",
        )
    broker(settings)
