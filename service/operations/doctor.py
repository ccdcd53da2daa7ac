"""Check what must always hold in the ledger: ``spinal doctor``. Exit 1 when something does not, 3 when the ledger could
not be read."""

import json
import sys

from sqlalchemy import exc

from service.database.unit_of_work import Ledger, allow
from service.operations.invariants import INVARIANTS, violations
from service.settings import get_settings
from spinal.errors import DatabaseUnavailable, ExitCode

LIMIT_S = 3600.0
"""It reads the whole ledger."""


def main() -> int:
    ledger = Ledger(get_settings())
    try:
        with ledger.read() as session:
            allow(session, LIMIT_S)
            found = violations(session)
    except exc.ProgrammingError as error:
        cause = str(error.orig).splitlines()[0]
        sys.stderr.write(f"error: the ledger cannot be read: {cause}\nnext: python -m service.operations.migrate\n")
        return int(ExitCode.NOT_EVALUATED)
    except DatabaseUnavailable as error:
        sys.stderr.write(f"error: {error.detail}\nnext: check SPINAL_DATABASE_URL\n")
        return int(ExitCode.NOT_EVALUATED)
    finally:
        ledger.close()
    if found:
        sys.stdout.write(json.dumps(found, default=str, indent=2) + "\n")
        return 1
    sys.stderr.write(f"all {len(INVARIANTS) + 1} invariants hold\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
