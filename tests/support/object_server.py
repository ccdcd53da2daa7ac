"""A real object store on loopback: OpenStack Swift with its S3 API, all of it in one process of its own.

Swift checks signatures (version 4), keeps versions, and answers conditions and ranges by itself: nothing of it is a
double. Only its proxy, account, container and object servers run, with one copy of everything, on ports that the system
chose.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx

from spinal.net.signing import AccessKey, aws_headers, encoded_path, encoded_query
from tests.support.places import ROOT
from tests.support.waiting import until

OWNER = AccessKey("test:tester", "testing")
STRANGER = AccessKey("test:stranger", "strange")
"""An account without any rights."""
PAGE = 4
"""Keys of one page of a listing: few, so that listings have several."""
VERSIONED = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
PROXY = """
[DEFAULT]
swift_dir = {home}
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats bulk s3api tempauth copy slo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
max_bucket_listing = {page}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_stranger = strange
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
"""


class ObjectServer:
    """A running store; what is put into it lies below ``home``, whose file system needs extended attributes."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.port = 0
        self.start()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Also after ``kill``: on the same port, with everything that was put into it."""
        (self._home / "port").unlink(missing_ok=True)
        command = [sys.executable, "-W", "ignore", "-m", "tests.support.object_server", str(self._home), str(self.port)]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stderr=log)
        self.port = int(until(self._ready, "the object store", timeout=60.0))

    def kill(self) -> None:
        """kill -9: whoever was talking to it hears no more."""
        self._process.kill()
        self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections, as far as the system does that for it, and says nothing on them."""
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def _ready(self) -> str | None:
        if self._process.poll() is not None:
            raise AssertionError((self._home / "log").read_text())
        port = self._home / "port"
        return port.read_text() if port.is_file() else None

    def make_bucket(self, name: str, *, versioned: bool = False) -> None:
        self._ask("PUT", f"/{name}")
        if versioned:
            self._ask("PUT", f"/{name}", [("versioning", "")], VERSIONED)

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self._ask("PUT", f"/{bucket}/{key}", body=content)

    def put_folder(self, bucket: str, prefix: str, folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            self.put(bucket, prefix + path.name, path.read_bytes())

    def put_in_parts(self, bucket: str, key: str, parts: Sequence[bytes]) -> None:
        """As clients upload large files: all parts but the last have 5 MiB at least."""
        path = f"/{bucket}/{key}"
        found = re.search(r"<UploadId>([^<]+)<", self._ask("POST", path, [("uploads", "")]).text)
        assert found is not None
        upload, told = ("uploadId", found[1]), ""
        for number, part in enumerate(parts, 1):
            etag = self._ask("PUT", path, [("partNumber", str(number)), upload], part).headers["etag"]
            told += f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        body = f"<CompleteMultipartUpload>{told}</CompleteMultipartUpload>"
        self._ask("POST", path, [upload], body.encode())

    def delete(self, bucket: str, key: str) -> None:
        self._ask("DELETE", f"/{bucket}/{key}")

    def _ask(self, method: str, path: str, query: Sequence[tuple[str, str]] = (), body: bytes = b"") -> httpx.Response:
        host, sent, asked = f"127.0.0.1:{self.port}", encoded_path(path), encoded_query(query)
        digest = hashlib.sha256(body).hexdigest()
        headers = aws_headers(
            OWNER, "us-east-1", method, host, sent, asked, {}, now=datetime.now(UTC), body_sha256=digest
        )
        url = f"http://{host}{sent}" + (f"?{asked}" if asked else "")
        done = httpx.request(method, url, headers=headers, content=body, trust_env=False, timeout=60.0)
        return done.raise_for_status()


def missing(home: Path) -> tuple[str, str] | None:
    """What a store needs and this machine lacks, and how to have it."""
    from importlib.util import find_spec

    if find_spec("swift") is None:
        return "OpenStack Swift", "pip install swift (Linux)"
    try:
        os.setxattr(home, "user.spinal", b"")
    except (OSError, AttributeError):
        return "a folder for temporary files with extended attributes", "set TMPDIR to one on ext4, xfs or btrfs"
    return None


def serve(home: Path, port: int) -> None:
    """Be the store, on ``port`` (0: any), until the process that started this one is gone."""
    # Before anything else is imported: Swift's servers share one thread.
    import eventlet

    eventlet.monkey_patch()

    from swift.account.server import AccountController
    from swift.common import utils
    from swift.common.wsgi import loadapp
    from swift.container.server import ContainerController
    from swift.obj.server import ObjectController

    utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b"", b"tests"
    listeners = {name: eventlet.listen(("127.0.0.1", 0)) for name in ("account", "container", "object")}
    listeners["proxy"] = eventlet.listen(("127.0.0.1", port))
    (home / "devices" / "one").mkdir(parents=True, exist_ok=True)
    for name in ("account", "container", "object"):
        _ring(home, name, listeners[name].getsockname()[1])
    (home / "proxy.conf").write_text(PROXY.format(home=home, page=PAGE))
    conf = {"swift_dir": str(home), "devices": str(home / "devices"), "mount_check": "false"}
    conf |= {"fallocate_reserve": "0", "disable_fallocate": "true"}
    apps: dict[str, Any] = {
        "account": AccountController(conf),
        "container": ContainerController(conf),
        "object": ObjectController(conf),
        "proxy": loadapp(str(home / "proxy.conf")),
    }
    threads = [
        eventlet.spawn(eventlet.wsgi.server, listeners[name], app, log_output=False) for name, app in apps.items()
    ]
    (home / "port.new").write_text(str(listeners["proxy"].getsockname()[1]))
    (home / "port.new").rename(home / "port")
    parent = os.getppid()
    while os.getppid() == parent and not any(thread.dead for thread in threads):
        eventlet.sleep(1.0)


def _ring(home: Path, name: str, port: int) -> None:
    """Says that one device on that port holds everything."""
    from swift.common.ring.builder import RingBuilder

    builder = RingBuilder(4, 1, 0)
    place = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "one", **place})
    builder.rebalance()
    builder.get_ring().save(str(home / f"{name}.ring.gz"))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
