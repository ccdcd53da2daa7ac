"""Every function, class and constant of the product is used by the product, or is kept for a reason given here."""

from pathlib import Path

import pytest
import vulture
from vulture.core import Item

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("spinal", "service", "worker")
USES_IT = ("migrations",)
CALLED_BY_FRAMEWORKS = [
    "@*.command", "@*.callback", "@*.get", "@*.post", "@*.delete", "@*.exception_handler", "@*.middleware",
    "@*.connect", "@*.listens_for", "@field_validator", "@model_validator",
]  # fmt: skip
"""Decorators that hand a function to a framework."""
KEPT = {
    "DoorbellConsumer": "Celery gets its name",
    "on_decode_error": "Celery calls it on consumers",
    "send_400_response": "uvicorn calls it on its connections",
    "disconnected": "uvicorn reads it of a request",
    "read_only": "psycopg begins the next transaction by it",
    "describe": "prometheus-client calls it on collectors",
    "COMMANDS": "spinal.cli.operators names it by text",
    **dict.fromkeys(("GS", "HF", "LOCAL", "MLFLOW", "S3"), "SOURCES names it by text"),
    **dict.fromkeys(("GENERIC", "HUGGINGFACE"), "KINDS of registries names it by text"),
    "versions_in_mlflow": "TARGETS names it by text",
    "_repr_html_": "notebooks call it",
    "to_pandas": "method of documents, for callers",
    "should_training_stop": "a flag that trainers read",
    **dict.fromkeys(
        ("on_train_begin", "on_save", "on_step_end", "on_train_end"), "transformers calls them on callbacks"
    ),
    **dict.fromkeys(("do_GET", "log_message"), "http.server calls them on handlers"),
    **dict.fromkeys(("connect_tcp", "start_tls"), "httpcore calls them on connections"),
    **dict.fromkeys(("convert", "to_string"), "starlette calls them on convertors of paths"),
    **dict.fromkeys(("add_folder", "wait_series"), "method of the client, for callers"),
    "singular_values_of_rows": "the direct form of what the engine computes in slices; tests compare the two",
}
"""Name -> why it stays although nothing in the product names it."""


def is_field(item: Item) -> bool:
    """Fields of documents, rows and settings are read by pydantic and SQLAlchemy; locals are the linter's."""
    indented = Path(item.filename).read_text().splitlines()[item.first_lineno - 1].startswith(" ")
    return bool(item.typ == "variable" and indented)


@pytest.fixture(scope="module")
def unused() -> dict[str, str]:
    """Name -> where it is defined, of everything in the product that is never named elsewhere in it."""
    # Rows are named by the tables that raw SQL reads, and Python itself calls what it has names for.
    found = vulture.Vulture(ignore_decorators=CALLED_BY_FRAMEWORKS, ignore_names=["*Record", "__*__"])
    found.scavenge([ROOT / folder for folder in PRODUCT + USES_IT])
    places = {item: Path(item.filename).relative_to(ROOT) for item in found.get_unused_code() if not is_field(item)}
    return {str(item.name): f"{path}:{item.first_lineno}" for item, path in places.items() if path.parts[0] in PRODUCT}


def test_nothing_is_dead(unused: dict[str, str]) -> None:
    assert {name: place for name, place in unused.items() if name not in KEPT} == {}


def test_nothing_is_kept_that_is_used(unused: dict[str, str]) -> None:
    assert set(KEPT) <= set(unused)
