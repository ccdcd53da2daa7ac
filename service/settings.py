"""Every setting of the service and the workers; the only reader of the environment (prefix ``SPINAL_``)."""

import re
import sys
from dataclasses import fields
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict, SettingsError

from service.platform.addresses import check_addresses
from service.registries import Registries
from service.settings_checks import (
    Limits,
    TenantLimits,
    json_object,
    path_below,
    public_address,
    with_registries,
    with_secrets,
    with_sources,
)
from service.settings_slow_clients import SlowClients
from spinal.checkpoints.fetching.store import ModelStore
from spinal.checkpoints.sources.reach import OF_VALIDATORS, Reach, SourceSettings
from spinal.errors import UsageError
from spinal.net.addresses import Reachable
from spinal.warm import WARM_BYTES

EVERY_HOST = "*"


class Settings(SlowClients):
    """Frozen settings. Durations are seconds."""

    model_config = SettingsConfigDict(
        env_prefix="SPINAL_", frozen=True, extra="ignore", arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    # where things are
    database_url: SecretStr = SecretStr("postgresql+psycopg://spinal:spinal@localhost:5432/spinal")
    broker_url: SecretStr = SecretStr("redis://localhost:6379/0")
    """``redis://``, ``rediss://``, ``sentinel://``, ``amqp://`` or ``amqps://``; several hosts separated by ``;``."""
    artifact_url: str = "file://./.spinal/artifacts"
    """fsspec URL of the folder that holds captures (file://, s3://, gs://)."""
    artifact_options: SecretStr = SecretStr("{}")
    """What fsspec is to know of that store, as JSON: ``{"endpoint_url": "https://...", "region": "...", "key_file":
    "/run/secrets/key", "secret_file": "/run/secrets/secret"}``. A member ``x_file`` is ``x``, read from that file.
    Credentials of the surroundings (environment, instance) are used only with ``{"ambient": true}``."""
    artifact_timeout_s: float = Field(default=20.0, gt=0)
    """A store elsewhere that says nothing for so long, in the middle of an answer, is asked once more; a call of which
    nothing has moved for twice as long is given up. Parts of files get a second for each MiB in addition."""
    artifact_check_s: float = Field(default=30.0, ge=0)
    """How long a worker takes its scratch folder and artifact store for usable after it has seen that they are."""
    storage_patience_s: float = Field(default=6 * 3600.0, ge=0)
    """How long a run goes on being offered to workers while scratch folders or the artifact store cannot be used."""
    device_patience_s: float = Field(default=1800.0, ge=0)
    """How long a run goes on being offered to workers while devices fail under it. Shorter: it may be the run that
    makes them fail."""
    scratch_dir: Path | None = None
    """Local folder for captures being written; the system's temporary folder when unset."""
    model_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders below which ``local:`` references may point, separated by ``:`` in the environment."""
    tenant_model_roots: dict[str, tuple[Path, ...]] = Field(default_factory=dict)
    """The folders of tenants that have their own, in place of ``model_roots``; in the environment as JSON:
    ``{"tenant": ["/folder"]}``."""
    share_results: bool = False
    """Whether work that one tenant's audit needed is used for another's. Off, every tenant's checkpoints are measured
    for itself, and neither an answer nor its speed tells what others have audited."""
    model_sources: Annotated[SourceSettings, NoDecode] = SourceSettings()
    """Where models live besides folders, and what may be used of it, as JSON or YAML (``docs/sources.md``)."""
    model_sources_file: Path | None = None
    """File with the same, in place of ``model_sources``."""
    model_signers: Annotated[tuple[Path, ...], NoDecode] = ()
    """Files (PEM) with the public keys that may sign models, separated by ``:`` in the environment. Unset: nobody's."""
    tenant_model_signers: dict[str, tuple[Path, ...]] = Field(default_factory=dict)
    """Those of tenants that have their own, in place of ``model_signers``; in the environment as JSON."""
    registries: Annotated[Registries, NoDecode] = Registries()
    """Model registries that tell us of versions, and what is audited then, as JSON or YAML (``docs/registries.md``)."""
    registries_file: Path | None = None
    """File with the same, in place of ``registries``."""
    model_store: Path = Path(".spinal/models")
    """Folder on this host for what is fetched of models that live elsewhere; its processes share it."""
    model_store_bytes: int | None = Field(default=None, ge=1)
    """Most bytes that are kept there: what was used longest ago goes first, and nothing that is in use. Unset: no
    bound."""
    source_answer_s: float = Field(default=20.0, gt=0)
    """A source that gives a worker nothing for so long is away: the run goes back to the queue, uncharged."""
    source_patience_s: float = Field(default=6 * 3600.0, ge=0)
    """How long a run goes on being offered to workers while the source of its model is away."""
    remember_digest_s: float = Field(default=7 * 86400.0, gt=0)
    """How long the content of files that have not been touched is known without reading them again."""

    # secrets apart from addresses, and all of them from files (the line end of a file is none of it)
    database_url_file: Path | None = None
    database_direct_url: SecretStr = SecretStr("")
    """Address of Postgres past a pooler in transaction mode: for LISTEN and for migrations."""
    database_direct_url_file: Path | None = None
    db_password: SecretStr = SecretStr("")
    """Password of the database as it is, nothing escaped, where its addresses have none."""
    db_password_file: Path | None = None
    broker_url_file: Path | None = None
    broker_password: SecretStr = SecretStr("")
    """Password of the broker as it is, nothing escaped, where its address has none."""
    broker_password_file: Path | None = None
    broker_transport_options: SecretStr = SecretStr("{}")
    """Options of kombu's transport as JSON, for sentinels for example ``{"master_name": "mymaster"}``."""
    broker_transport_options_file: Path | None = None
    key_pepper_file: Path | None = None
    attestation_key: SecretStr = SecretStr("")
    """What signs attestations: a PEM file, its content, or ``hashivault://``, ``awskms://`` or ``gcpkms://``
    (``docs/attestations.md``). Unset: nothing is attested."""
    attestation_key_file: Path | None = None
    attestation_key_options: SecretStr = SecretStr("{}")
    """What a key server is to know, as JSON: ``{"address": "https://vault:8200", "token_file": "/run/secrets/token"}``.
    A member ``x_file`` is ``x``, read from that file."""
    attestation_key_options_file: Path | None = None

    # HTTP
    auth: Literal["required", "disabled"] = "required"
    key_pepper: SecretStr = SecretStr("")
    """Secret of the HMAC under which API keys are stored; must be set when ``auth`` is required."""
    unbound_keys: Literal["accepted", "refused"] = "accepted"
    """Whether keys of an earlier release open anything before their next use has bound them to their tenant and
    scopes: ``refused`` once ``spinal keys list`` shows none that is needed."""
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024)
    max_wait_s: float = Field(default=60.0, ge=0.0)
    """Longest ``?wait=`` of a long poll."""

    # limits of tenants (docs/operations.md)
    open_audits: int = Field(default=20_000, ge=0)
    """Audits of one tenant that are queued or running, members of series among them."""
    requests_per_minute: int = Field(default=12_000, ge=1)
    """Requests of one tenant, to each process of the API: so many at once, and so many a minute from then on."""
    prompt_sets: int = Field(default=10_000, ge=0)
    """Prompt sets that one tenant stores."""
    prompt_bytes: int = Field(default=2**31, ge=0)
    """Bytes of all of them, as JSON."""
    idempotency_keys: int = Field(default=1_000_000, ge=0)
    """Answers that are kept under Idempotency-Keys of one tenant's audits."""
    idempotency_kept_s: float = Field(default=86_400.0, ge=0)
    """So long such an answer is kept in any case, and while its audit is open."""
    tenant_limits: dict[str, TenantLimits] = Field(default_factory=dict)
    """The limits of tenants that have their own; in the environment as JSON: ``{"tenant": {"open_audits": 100}}``."""

    # retention
    retain_captures_days: float | None = Field(default=None, ge=0)
    """A dispatcher deletes captures of traces older than that, which no open audit needs; unset = they are kept."""
    retain_keys_days: float | None = Field(default=30.0, ge=0)
    """A dispatcher deletes answers kept under Idempotency-Keys that are older than that."""
    retain_deliveries_days: float | None = Field(default=90.0, ge=0)
    """A dispatcher deletes deliveries to webhooks and registries that ended longer ago, with the log of their tries."""
    retention_every_s: float = Field(default=3600.0, gt=0)
    """How often."""
    # where callers reach the API
    public_url: str | None = None
    """Address under which callers reach the API, with its path (``https://audits.example/spinal``). Links in reports
    lead there; unset, they are paths. The Host header of a request is never used."""
    root_path: str = ""
    """Path below which a proxy serves the API (``/spinal``), whether it takes it off or not; that of ``public_url``
    where this is unset."""
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    """Addresses or networks, separated by ``,``, of the proxies whose ``X-Forwarded-Prefix``, ``X-Forwarded-Host`` and
    ``X-Forwarded-Proto`` are believed. Unset: nobody's."""

    # looking at checkpoints
    inspect_seconds: int = Field(default=45, ge=1)
    """How long looking at the checkpoints of one request may take; each goes on in a process of its own."""
    inspect_memory_mb: int = Field(default=2048, ge=512)
    """How much address space such a process may take."""
    inspect_children: int = Field(default=4, ge=1)
    """How many such processes there may be, in each process of the API."""

    # broker
    broker_tls: bool = False
    """TLS where the scheme does not say it: to sentinels, and to the servers that they name."""
    broker_tls_ca_file: Path | None = None
    """Certificates (PEM) that the broker's is held to; those of the system when unset."""
    broker_tls_verify: bool = True
    """Off, whoever answers at its address is taken for the broker."""

    # database
    db_pooler: Literal["none", "session", "transaction"] = "none"
    """What stands between here and Postgres: nothing that shares sessions, or a pooler in that mode."""
    db_pool_size: int = Field(default=10, ge=1)
    db_pool_timeout_s: float = Field(default=3.0, gt=0)
    db_connect_timeout_s: int = Field(default=3, ge=1)
    db_statement_timeout_s: float = Field(default=15.0, gt=0)
    db_lock_timeout_s: float = Field(default=5.0, gt=0)

    # lifecycle
    lease_s: float = Field(default=45.0, gt=0)
    heartbeat_s: float = Field(default=5.0, gt=0)
    ring_again_s: float = Field(default=20.0, gt=0)
    """A run not taken this long after its doorbell is rung again, where the broker holds fewer doorbells than runs
    wait."""
    dispatch_interval_s: float = Field(default=2.0, gt=0)
    """Longest pause between two looks of the dispatcher; a NOTIFY wakes it at once."""
    max_attempts: int = Field(default=3, ge=1)
    backoff_s: float = Field(default=5.0, ge=0)
    """Base of the backoff between attempts, doubled each time, with jitter."""
    run_deadline_s: float = Field(default=6 * 3600.0, gt=0)
    """An attempt still going after this long is ended, whatever it is doing."""
    stall_s: float = Field(default=1800.0, gt=0)
    """An attempt that reports no progress for this long is ended and tried again."""
    stuck_s: float = Field(default=90.0, ge=5.0)
    """A worker process in which no thread runs for this long is ended from outside its interpreter. Longer than a
    lease: a process that was only frozen for that long may go on with other work."""
    missing_model_s: float = Field(default=600.0, ge=0)
    """How long a run goes on being offered to workers while those that took it do not find its checkpoint."""
    outage_patience_s: float = Field(default=600.0, gt=0)
    """How long a worker goes on, and keeps a result it cannot store, while the database does not answer."""

    # worker
    trace_queue: str = "cpu"
    """Queue of the device class that traces and compares run on (``cpu`` or ``gpu``)."""
    delivery_queue: str = "deliveries"
    """Queue of what webhooks and registries are told. A worker that is started without ``--queues`` takes both."""
    delivery_answer_s: float = Field(default=20.0, gt=0, le=300.0)
    """How long a webhook or a registry may take for its answer, from connecting to its last byte."""
    webhook_hosts: Annotated[tuple[str, ...], NoDecode] = (EVERY_HOST,)
    """Hosts that webhooks of tenants may lead to, separated by ``,``: ``*`` is every one, ``*.example.org``,
    ``hooks.example.org:8443``. Nothing: none."""
    webhook_private: Annotated[tuple[str, ...], NoDecode] = ()
    """Those of them that live in the own network (hosts), and networks where any of them may live (``10.1.0.0/16``),
    separated by ``,``: they alone are reached at addresses that are not public, and without TLS."""
    webhooks: int = Field(default=100, ge=0)
    """Webhooks that one tenant may have."""
    warm_engine: bool = True
    """Off, a worker imports the engine with its first measurement: for workers that only deliver."""
    device: str = "cpu"
    """torch device of this worker: ``cpu``, ``cuda`` (each child takes a GPU of its own), ``cuda:1`` (all use that)."""
    gpus: Annotated[tuple[str, ...], NoDecode] = ()
    """GPUs that children share out, as ``CUDA_VISIBLE_DEVICES`` names them (``0,1``); unset = all that are visible."""
    gpu_lock_dir: Path = Path("/tmp/spinal-gpus")  # noqa: S108  the same for all workers of a host, whoever starts them
    """Folder of the lock files that say which child has which GPU."""
    torch_threads: int = Field(default=1, ge=1)
    stream_weights: bool = False
    """Read the blocks of a checkpoint from disk one at a time: for weights larger than the worker's memory."""
    warm_reference_bytes: int = Field(default=WARM_BYTES, ge=0)
    """Most memory, of the device that measures, that each worker process keeps of the reference that it last compared
    with, so that the next comparison need not read it again; 0 keeps nothing."""
    engine: str = "spinal.engine.api"
    """Module of the measuring engine (``measure``, ``gather_evidence``); tests put an engine double here."""
    publish_timeout_s: float = Field(default=2.0, gt=0)

    # observability
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_port: int | None = None
    """Port of the dispatcher's ``/metrics`` (loopback unless ``metrics_host`` says otherwise); unset = not served."""
    metrics_host: str = "127.0.0.1"
    # health of dispatchers and workers
    health_port: int | None = None
    """Port on which a dispatcher answers ``/livez`` and nothing else, on ``metrics_host``; with ``metrics_port`` it
    answers ``/livez`` there, too."""
    alive_dir: Path | None = None
    """Folder in which every dispatcher and worker keeps a small file that says when its loops last turned, for
    ``python -m worker.alive``; local to the container, or to the host; unset = no file."""
    alive_limit_s: float = Field(default=60.0, ge=2.0)
    """A loop that has not turned for so long stands still. Longer than any wait for the database or the broker."""
    tell_alive_s: float = Field(default=10.0, gt=0)
    """How often a worker says in the ledger that it is there."""

    api_metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the API's own ``/metrics``, on ``metrics_host`` like the dispatcher's; 0 takes any that is free, unset =
    not served."""
    otlp_endpoint: str | None = None
    """Address of an OpenTelemetry collector (OTLP over HTTP), e.g. ``http://collector:4318``; unset = no telemetry."""

    @property
    def prefix(self) -> str:
        """The path below which callers see the API: nothing, or ``/spinal``."""
        return self.root_path or ("" if self.public_url is None else urlsplit(self.public_url).path)

    def roots_of(self, tenant: str | None) -> tuple[Path, ...]:
        """The folders below which a tenant's ``local:`` references may point; those of all where none is named."""
        return self.model_roots if tenant is None else self.tenant_model_roots.get(tenant, self.model_roots)

    def reach_of(self, tenant: str | None) -> Reach:
        """What a tenant may name as a model: folders below its roots, and sources with its credentials."""
        return Reach(self.roots_of(tenant), self.model_sources.of(tenant))

    def webhooks_reach(self) -> Reachable:
        """Where webhooks may lead. Raises ValueError."""
        named = tuple(host for host in self.webhook_hosts if host != EVERY_HOST)
        return Reachable(named, self.webhook_private, everywhere=EVERY_HOST in self.webhook_hosts)

    def signers_of(self, tenant: str) -> tuple[Path, ...]:
        """Whose signatures of models count for a tenant."""
        return self.tenant_model_signers.get(tenant, self.model_signers)

    def store_of_models(self) -> ModelStore:
        """The store that processes of this host share."""
        return ModelStore(self.model_store, most_bytes=self.model_store_bytes, remember_s=self.remember_digest_s)

    def owner_of_work(self, tenant: str) -> str | None:
        """The tenant for whom alone a run of ``tenant`` works; None where others may share it. What a tenant names
        below its own folders, or with its own credentials, is its own in any case."""
        own = tenant in self.tenant_model_roots or tenant in self.model_sources.tenants
        return None if self.share_results and not own else tenant

    def limits_of(self, tenant: str) -> Limits:
        """What a tenant may hold and ask."""
        own = self.tenant_limits.get(tenant, TenantLimits())
        named = {member.name: getattr(own, member.name) for member in fields(Limits)}
        return Limits(**{name: getattr(self, name) if value is None else value for name, value in named.items()})

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        return with_secrets(values)

    @model_validator(mode="before")
    @classmethod
    def _read_sources(cls, values: dict[str, Any]) -> dict[str, Any]:
        return with_sources(values)

    @model_validator(mode="before")
    @classmethod
    def _read_registries(cls, values: dict[str, Any]) -> dict[str, Any]:
        return with_registries(values)

    @model_validator(mode="after")
    def _registries_have_sources(self) -> Self:
        try:
            self.registries.require_sources(self.model_sources)
        except UsageError as error:
            raise ValueError(error.detail) from None
        return self

    @field_validator("artifact_options", "attestation_key_options")
    @classmethod
    def _is_an_object(cls, value: SecretStr) -> SecretStr:
        return json_object(value)

    @field_validator("root_path")
    @classmethod
    def _check_root(cls, value: str) -> str:
        return path_below(value)

    @field_validator("public_url")
    @classmethod
    def _check_public(cls, value: str | None) -> str | None:
        return public_address(value) if value else None

    @model_validator(mode="after")
    def _hosts_of_webhooks(self) -> Self:
        self.webhooks_reach()
        return self

    @model_validator(mode="after")
    def _one_path(self) -> Self:
        if self.public_url and self.root_path and urlsplit(self.public_url).path != self.root_path:
            raise ValueError("public_url and root_path name different paths")
        return self

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())

    @field_validator("model_roots", "model_signers", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        return tuple(Path(part) for part in value.split(":") if part) if isinstance(value, str) else value

    @field_validator("gpus", "webhook_hosts", "webhook_private", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(part for part in value.split(",") if part) if isinstance(value, str) else value


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings, read from the environment once."""
    return Settings()


def read_settings() -> Settings:
    """The settings of the environment. Raises UsageError that names the one that is not understood, without a value:
    several of them are secrets."""
    try:
        settings = get_settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        said = first["msg"].removeprefix(OF_VALIDATORS)
        if not first["loc"]:
            # Of several settings together, which the text names.
            raise UsageError(said, hint="correct it in the environment (SPINAL_...), or leave it out") from None
        name = f"SPINAL_{first['loc'][0]}".upper()
        raise UsageError(f"{name}: {said}", hint=f"set {name} right, or leave it out") from None
    except SettingsError as error:
        # A setting that is JSON, and none.
        named = re.search(r'"(\w+)" from source', str(error))
        name = f"SPINAL_{named[1].upper()}" if named else "a setting"
        raise UsageError(f"{name} is not JSON", hint="write it as JSON") from None
    check_addresses(settings)
    return settings


def settings_at_start() -> Settings:
    """The settings of a process that starts; where they are wrong it ends with one line, and no traceback."""
    try:
        return read_settings()
    except UsageError as error:
        sys.exit(one_line(error))


def one_line(error: UsageError) -> str:
    """What a process that cannot start says: the cause and the next step."""
    return f"error: {error.detail}; {error.hint}"
