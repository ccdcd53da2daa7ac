"""What to say when a package of an optional extra is missing."""


def install_hint(extra: str) -> str:
    """The next step, without naming a place to download from: another package may have our name there.

    >>> install_hint("local")
    "install spinal with its extra 'local'; in a checkout: pip install '.[local]'"
    """
    return f"install spinal with its extra {extra!r}; in a checkout: pip install '.[{extra}]'"


EXTRAS = {
    "local": ("torch", "transformers", "peft", "accelerate"),
    "service": (
        "fastapi", "starlette", "uvicorn", "sqlalchemy", "psycopg", "alembic", "pydantic_settings", "fsspec",
        "structlog", "prometheus_client", "opentelemetry",
    ),
    "worker": ("celery", "kombu", "redis"),
    "attest": ("cryptography",),
    "training": ("trl", "datasets", "tensorboard"),
    "notebook": ("pandas",),
    "parquet": ("pyarrow",),
}  # fmt: skip
"""Extra -> the packages, by the names they are imported by, that it brings."""


def extra_of(package: str) -> str | None:
    """The extra that brings a package or a module of it; None for what no extra brings.

    >>> extra_of("sqlalchemy.orm")
    'service'
    """
    top = package.partition(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if top in packages), None)
