"""Whatever is started with a setting that is wrong ends with one line that names it, and no secret, wherever that is
read. Which settings and how: ``tests/unit/test_addresses.py``."""

import os
import subprocess
import sys

from tests.conftest import ROOT

SPINAL = (sys.executable, "-m", "spinal.cli.main")
STARTED: dict[str, tuple[str, ...]] = {
    "the API": (sys.executable, "-m", "uvicorn", "service.app:create_app", "--factory", "--port", "1"),
    "a worker": (sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker"),
    "a dispatcher": (sys.executable, "-m", "worker.dispatcher"),
    "doctor": (*SPINAL, "doctor"),
    "retention": (*SPINAL, "retention"),
    "keys": (*SPINAL, "keys", "list"),
    "database": (*SPINAL, "database", "upgrade"),
}
WRONG = {
    "SPINAL_DATABASE_URL": "postgresql://u:p@hush:hush@h:5432/d",
    "SPINAL_BROKER_URL": "sentinel://:hush@h",
    "SPINAL_DB_PASSWORD_FILE": "/hush/hush",
    "SPINAL_KEY_PEPPER": "",
}


def started(name: str, wrong: str) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SPINAL_")}
    environment |= {"SPINAL_KEY_PEPPER": "hush", wrong: WRONG[wrong], "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        STARTED[name], env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_whatever_is_started_says_in_one_line_what_is_wrong() -> None:
    wrong_of = dict(zip(STARTED, [*list(WRONG)[:3] * 3], strict=False))
    cases = [*wrong_of.items(), ("the API", "SPINAL_KEY_PEPPER"), ("a worker", "SPINAL_DATABASE_URL")]
    running = [(name, wrong, started(name, wrong)) for name, wrong in cases]
    for name, wrong, process in running:
        out, err = process.communicate(timeout=400)
        assert process.returncode != 0, name
        said = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1, (name, err)
        assert wrong in said[0]
        assert "Traceback" not in err, (name, err)
        assert len(err.splitlines()) <= 2, (name, err)
        assert "hush" not in out + err
