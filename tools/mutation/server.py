"""A process that has everything imported and runs pytest in children: ``python -m tools.mutation.server``.

One JSON object a line on standard input (``arguments``, ``limit_s``, ``environment``, ``output``), one a line back
(``code``: the exit status of pytest, or null where time ran out). Importing pytest, numpy, scipy and the web framework
takes two seconds; a mutant whose test fails at once takes a tenth of that.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time

HEAVY = (
    "numpy", "scipy.stats", "pytest", "hypothesis", "hypothesis.extra.numpy", "pydantic", "safetensors.numpy", "httpx",
    "typer", "rich.console", "sqlalchemy.orm", "psycopg", "alembic.command", "fastapi.testclient", "fsspec",
    "structlog", "prometheus_client", "celery", "redis", "yaml",
)  # fmt: skip
"""Other people's packages. Of this repository nothing is imported before the fork: it may be mutated."""


def prepare() -> None:
    # Of the plugins that installed packages bring none is needed, and some take long to begin.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    from hypothesis import HealthCheck, Phase, settings

    # The same examples every time; of one that fails no smaller one is looked for.
    settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutants")
    # What is here is here to stay: children need not look through it for garbage, as pytest asks them to.
    gc.freeze()


def carry_out(arguments: list[str], environment: dict[str, str], output: str) -> int:
    """In the child: run pytest with its output in a file."""
    import pytest

    os.setsid()
    os.environ.update(environment)
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    # What is mutated must never be remembered as compiled.
    sys.dont_write_bytecode = "MUTANTS_REACH" not in environment
    return int(pytest.main(arguments))


def wait_for(child: int, limit_s: float) -> int | None:
    """Exit status of the child; None after it was killed because time had run out."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    prepare()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = carry_out(job["arguments"], job["environment"], job["output"])
            finally:
                sys.stdout.flush()
                os._exit(code)
        answers.write(json.dumps({"code": wait_for(child, job["limit_s"])}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
