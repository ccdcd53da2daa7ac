"""Start both servers in the folder named first, break one, and print as JSON how they ran. A program of its own:
tests run it as another user, with another umask, from wheels elsewhere."""

import json
import os
import sys
from pathlib import Path

import psycopg

from devstack import PostgresServer, ValkeyServer
from devstack.processes import as_unprivileged


def main() -> None:
    folder = Path(sys.argv[1])
    servers = folder / "servers"
    servers.mkdir(parents=True, exist_ok=True)
    as_unprivileged(servers)
    postgres = PostgresServer(servers, log=folder / "postgres.log", durable=True)
    valkey = ValkeyServer(servers, log=folder / "valkey.log", durable=True)
    postgres.start()
    valkey.start()
    url = postgres.url.replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS answer")
        connection.execute("INSERT INTO kept VALUES (1)")
    postgres.kill()
    postgres.start()
    valkey.restart()
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM kept").fetchone()
    pids = {"postgres": postgres.pid, "valkey": valkey.pid}
    ran = {
        name: {"program": os.readlink(f"/proc/{pid}/exe"), "user": Path(f"/proc/{pid}").stat().st_uid}
        for name, pid in pids.items()
    }
    valkey.stop()
    postgres.stop()
    print(json.dumps({"rows": found[0] if found else 0, "ran": ran}))


main()
