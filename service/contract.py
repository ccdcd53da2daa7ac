"""Write or check the committed contract, ``openapi.yaml`` and ``docs/errors.md``:
``python -m service.contract [--check]``."""

import sys
from pathlib import Path

import yaml

from service.app import bare_app
from spinal.errors import all_errors

ROOT = Path(__file__).resolve().parents[1]


def contract() -> str:
    """The OpenAPI document generated from the code, as YAML."""
    text: str = yaml.safe_dump(bare_app().openapi(), sort_keys=False, allow_unicode=True, width=110)
    return text


def errors_page() -> str:
    """Every error code as a Markdown table."""
    lines = [
        "# Errors",
        "",
        "Every failure carries a stable `code`: in the `application/problem+json` body over HTTP, in the problem",
        "object that `--json` writes to stderr, and in an audit's `error`. `detail` says what is wrong, `hint` what to",
        "do next.",
        "*Retried* errors are tried again by the workers before an audit fails. Written by",
        "`python -m service.contract` from `spinal/errors/`.",
        "",
        "| code | title | HTTP | exit | retried |",
        "|---|---|---|---|---|",
    ]
    for code, error in all_errors().items():
        retried = "yes" if error.retryable else ""
        lines.append(f"| `{code}` | {error.title} | {error.status} | {int(error.exit_code)} | {retried} |")
    return "\n".join(lines) + "\n"


def documents() -> dict[Path, str]:
    """Generated documents by path."""
    return {ROOT / "openapi.yaml": contract(), ROOT / "docs" / "errors.md": errors_page()}


def main(arguments: list[str]) -> int:
    stale = []
    for path, made in documents().items():
        if "--check" not in arguments:
            path.write_text(made, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != made:
            stale.append(path.name)
    if stale:
        sys.stderr.write(f"error: {', '.join(stale)} differs from the code\nnext: run python -m service.contract\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
