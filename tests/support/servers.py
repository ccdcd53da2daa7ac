"""Servers of others as operators have them: PgBouncer, Redis with sentinels and with TLS, RabbitMQ, each a process of
its own in a temporary folder, as another user where this one is root, and gone afterwards.

``python3 dev.py servers`` installs them where it may.
"""

import contextlib
import datetime
import ipaddress
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import URL, make_url

from devstack.processes import HOST, Child, as_unprivileged, free_port, port_answers, wait_until
from tests.support.waiting import until

HOW_TO_HAVE_IT = "python3 dev.py servers"
FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/rabbitmq/bin")
DIFFICULT = "p@ss/w:rd a#b?c %41 ü"
"""A password in which nothing is escaped."""


def find(name: str) -> str | None:
    """A program of a server, where distributions put it."""
    # The one on the path changes the user, which a test does by itself.
    if name == "rabbitmq-server":
        return shutil.which(name, path="/usr/lib/rabbitmq/bin") or shutil.which(name)
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(FOLDERS))


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="spinal-servers-", ignore_cleanup_errors=True) as temporary:
        yield as_unprivileged(Path(temporary))


def write(file: Path, text: str) -> Path:
    """``file``, readable for the user whom servers run as."""
    file.touch(mode=0o600)
    file.write_text(text, encoding="utf-8")
    return as_unprivileged(file)


class Server:
    """One process that can be killed and started again at the same port."""

    def __init__(self, name: str, folder: Path, command: list[str], port: int) -> None:
        self.name = name
        self.folder = folder
        self.port = port
        self.command = command
        self.env: dict[str, str] | None = None
        self._child: Child | None = None

    def start(self, timeout: float = 60.0) -> None:
        self._child = Child(
            self.name, self.command, log=self.folder / f"{self.name}.log", env=self.env, unprivileged=True,
            cwd=self.folder,
        )  # fmt: skip
        try:
            wait_until(self.answers, self._child, timeout=timeout, interval=0.1)
        except BaseException:
            self.kill()
            raise

    def answers(self) -> bool:
        return port_answers(self.port)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def kill(self) -> None:
        """kill -9 of it and of whatever it started."""
        if self._child is not None:
            self._child.kill()
            self._child = None


@contextlib.contextmanager
def running(server: Server) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.kill()


# PgBouncer


@contextlib.contextmanager
def pgbouncer(
    program: str, behind: str, mode: str, *, ignores_options: bool = False, sessions: int = 5
) -> Iterator[URL]:
    """Address of a pooler in front of the server at ``behind``, for any of its databases."""
    url = make_url(behind)
    port = free_port()
    with server_folder() as folder:
        users = write(folder / "users.txt", f'"{url.username}" "{url.password}"\n')
        config = write(
            folder / "pgbouncer.ini",
            f"[databases]\n* = host={url.host} port={url.port}\n[pgbouncer]\nlisten_addr = {HOST}\n"
            f"listen_port = {port}\nauth_type = scram-sha-256\nauth_file = {users}\npool_mode = {mode}\n"
            f"default_pool_size = {sessions}\nmax_client_conn = 600\nunix_socket_dir =\n"
            f"ignore_startup_parameters = extra_float_digits{',options' if ignores_options else ''}\n",
        )
        with running(Server("pgbouncer", folder, [program, str(config)], port)):
            yield url.set(host=HOST, port=port)


# Redis


def quoted(text: str) -> str:
    """A word of a configuration of Redis."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class RedisServer(Server):
    """``redis-server`` with a password; with ``sentinel`` it watches others."""

    def __init__(
        self, program: str, folder: Path, *lines: str, password: str = DIFFICULT, sentinel: bool = False,
        port: int | None = None, tls: bool = False,
    ) -> None:  # fmt: skip
        port = port or free_port()
        self.password = password
        self.tls = tls
        name = f"{'sentinel' if sentinel else 'redis'}-{port}"
        listens = (f"tls-port {port}", "port 0") if tls else (f"port {port}",)
        common = (f"bind {HOST}", f"dir {folder}", f"requirepass {quoted(password)}")
        keeps = () if sentinel else ('save ""', "appendonly no", f"masterauth {quoted(password)}")
        config = write(folder / f"{name}.conf", "\n".join((*listens, *common, *keeps, *lines)) + "\n")
        super().__init__(name, folder, [program, str(config), *(["--sentinel"] if sentinel else [])], port)

    def client(self) -> Redis:
        return Redis(host=HOST, port=self.port, password=self.password, socket_timeout=2.0)

    def answers(self) -> bool:
        if self.tls:
            return super().answers()
        with contextlib.suppress(RedisError), self.client() as client:
            return bool(client.ping())
        return False


class Watched:
    """Two Redis servers, one a copy of the other, and three sentinels that agree on which is the master."""

    NAME = "spinal-broker"

    def __init__(self, program: str, folder: Path) -> None:
        self.first = RedisServer(program, folder)
        copies = f"replicaof {HOST} {self.first.port}"
        self.second = RedisServer(program, folder, copies)
        self.sentinels = [
            RedisServer(
                program, folder,
                f"sentinel monitor {self.NAME} {HOST} {self.first.port} 2",
                f"sentinel auth-pass {self.NAME} {quoted(DIFFICULT)}",
                f"sentinel down-after-milliseconds {self.NAME} 1000",
                f"sentinel failover-timeout {self.NAME} 5000",
                sentinel=True, password="of sentinels: x/y@z",
            )
            for _ in range(3)
        ]  # fmt: skip

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        return (self.first, self.second, *self.sentinels)

    def master_port(self) -> int:
        """As the first sentinel names it."""
        with self.sentinels[0].client() as client:
            found = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self.NAME)
        return int(found[1])

    def agreed(self) -> bool:
        """Whether every sentinel knows the copy and the two others."""
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                master = client.execute_command("SENTINEL MASTER", self.NAME)
            if (int(master["num-slaves"]), int(master["num-other-sentinels"])) != (1, 2):
                return False
        return True


@contextlib.contextmanager
def watched(program: str) -> Iterator[Watched]:
    with server_folder() as folder, contextlib.ExitStack() as stack:
        made = Watched(program, folder)
        for server in made.servers:
            stack.enter_context(running(server))
        until(made.agreed, "the sentinels to know each other")
        yield made


# RabbitMQ


class RabbitMq(Server):
    """``rabbitmq-server`` under a name and with an ``epmd`` of its own: whatever else runs Erlang is left alone."""

    PASSWORD = "p@ss/w:rd"

    def __init__(self, program: str, folder: Path, certificates: "Certificates | None" = None) -> None:
        port = free_port()
        self.tls_port = free_port()
        names = free_port()
        lines = [
            f"listeners.tcp.1 = {HOST}:{port}", "default_user = auditor", f"default_pass = {self.PASSWORD}",
            "disk_free_limit.absolute = 1MB", "log.console = true", "log.file = false",
        ]  # fmt: skip
        if certificates is not None:
            lines += [
                f"listeners.ssl.1 = {HOST}:{self.tls_port}", f"ssl_options.cacertfile = {certificates.ca}",
                f"ssl_options.certfile = {certificates.certificate}", f"ssl_options.keyfile = {certificates.key}",
                "ssl_options.verify = verify_none",
            ]  # fmt: skip
        write(folder / "rabbitmq.conf", "\n".join(lines) + "\n")
        write(folder / "enabled_plugins", "[].\n")
        super().__init__("rabbitmq", folder, [program], port)
        self.env = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": f"spinal{port}@localhost", "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"), "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"), "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none", "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": HOST,
        }  # fmt: skip
        self.names = Server("epmd", folder, [find("epmd") or "epmd", "-port", str(names), "-address", HOST], names)


@contextlib.contextmanager
def rabbitmq(program: str, certificates: "Certificates | None" = None) -> Iterator[RabbitMq]:
    with server_folder() as folder:
        if certificates is not None:
            certificates = certificates.copied(folder)
        server = RabbitMq(program, folder, certificates)
        with running(server.names), running(server):
            yield server


# certificates


class Certificates:
    """An authority of nobody else, and a server's certificate for this machine's loopback."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.certificate, self.key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
        authority, subject = ec.generate_private_key(ec.SECP256R1()), _name("tests")
        own = ec.generate_private_key(ec.SECP256R1())
        basic = x509.BasicConstraints(ca=True, path_length=None)
        _pem(self.ca, _certificate(subject, subject, authority, authority).add_extension(basic, critical=True).sign(
            authority, hashes.SHA256()))  # fmt: skip
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))])
        signed = _certificate(_name("server"), subject, own, authority).add_extension(names, critical=False)
        _pem(self.certificate, signed.sign(authority, hashes.SHA256()))
        self.key.write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def copied(self, folder: Path) -> "Certificates":
        """The same files where a server can read them."""
        made = object.__new__(Certificates)
        made.ca, made.certificate, made.key = (
            as_unprivileged(Path(shutil.copy(file, folder))) for file in (self.ca, self.certificate, self.key)
        )
        return made


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
    )


def _pem(file: Path, certificate: x509.Certificate) -> None:
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
