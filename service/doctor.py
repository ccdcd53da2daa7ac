"""Check what must always hold in the ledger: ``python -m service.doctor``. Exit 1 when something does not."""

import json
import sys

from service.ledger.invariants import INVARIANTS, violations
from service.ledger.unit_of_work import Ledger
from service.settings import get_settings
from spinal.errors import DatabaseUnavailable


def main() -> int:
    ledger = Ledger(get_settings())
    try:
        with ledger.read() as session:
            found = violations(session)
    except DatabaseUnavailable as error:
        sys.stderr.write(f"error: {error.detail}\nnext: check SPINAL_DATABASE_URL\n")
        return 2
    finally:
        ledger.close()
    if found:
        sys.stdout.write(json.dumps(found, default=str, indent=2) + "\n")
        return 1
    sys.stderr.write(f"all {len(INVARIANTS) + 1} invariants hold\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
