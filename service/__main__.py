"""``python -m service``: the API."""

import sys

from service.serving import main

if __name__ == "__main__":
    sys.exit(main())
