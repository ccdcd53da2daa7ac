"""API keys from the shell: ``python -m service.keys create --tenant T [--scope read,write]`` or ``revoke ID``."""

import argparse
import sys

from service.database.unit_of_work import Ledger
from service.keys.store import SCOPES, create_key, revoke_key
from service.settings import get_settings
from spinal.errors import DatabaseUnavailable


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m service.keys", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key and print it once")
    create.add_argument("--tenant", required=True)
    create.add_argument("--scope", default="read,write", help=f"comma-separated, of {', '.join(SCOPES)}")
    revoke = commands.add_parser("revoke", help="end a key by its id, the part between the underscores")
    revoke.add_argument("id")
    chosen = parser.parse_args(arguments)
    settings = get_settings()
    if not settings.key_pepper.get_secret_value():
        parser.error("SPINAL_KEY_PEPPER is not set")
    ledger = Ledger(settings)
    try:
        with ledger.begin() as session:
            if chosen.command == "revoke":
                return 0 if revoke_key(session, chosen.id) else parser.exit(1, f"error: no live key {chosen.id}\n")
            scopes = tuple(chosen.scope.split(","))
            if unknown := [scope for scope in scopes if scope not in SCOPES]:
                parser.error(f"unknown scope {', '.join(unknown)}; known: {', '.join(SCOPES)}")
            key = create_key(
                session, tenant=chosen.tenant, scopes=scopes, pepper=settings.key_pepper.get_secret_value()
            )
    except DatabaseUnavailable as error:
        parser.exit(1, f"error: {error.detail}\nnext: check SPINAL_DATABASE_URL\n")
    finally:
        ledger.close()
    sys.stdout.write(key + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
