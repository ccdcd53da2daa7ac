"""Write or check the committed contract: ``python -m service.api.openapi [--check]``."""

import sys
from pathlib import Path

import yaml

from service.api.app import bare_app

TARGET = Path(__file__).resolve().parents[2] / "openapi.yaml"


def contract() -> str:
    """The OpenAPI document generated from the code, as YAML."""
    text: str = yaml.safe_dump(bare_app().openapi(), sort_keys=False, allow_unicode=True, width=110)
    return text


def main(arguments: list[str]) -> int:
    made = contract()
    if "--check" not in arguments:
        TARGET.write_text(made, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == made:
        return 0
    sys.stderr.write("error: openapi.yaml differs from the code\nnext: run python -m service.api.openapi\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
