"""Set up and run everything: ``python3 dev.py demo|serve|registry|test|check|fmt|bench|screenshots|mutants|servers``.
Standard library only.

The first command makes ``.venv`` from ``pyproject.toml`` and ``constraints.txt``; later ones reuse it until one of
those files changes. Nothing outside the checkout is written, apart from temporary folders; ``servers`` alone installs
packages of the system.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PYTEST = (PYTHON, "-m", "pytest")
STAMP = VENV / "spinal.stamp"
EXTRAS = {"demo": "worker,embedded", "serve": "worker,embedded", "test": "worker,embedded,dev,training"}
EXTRAS["check"] = EXTRAS["fmt"] = EXTRAS["test"]
EXTRAS["screenshots"] = f"{EXTRAS['test']},browser"
EXTRAS["mutants"] = f"{EXTRAS['test']},mutants"
EXTRAS["bench"] = EXTRAS["registry"] = EXTRAS["demo"]
PACKAGES = {
    "pgbouncer": "pgbouncer",
    "redis-server": "redis-server",
    "redis-sentinel": "redis-sentinel",
    "rabbitmq-server": "rabbitmq-server",
}
"""Packages of Debian and its kin -> the program in each that tests run, in folders and at ports of their own."""
NO_SERVICES = Path("/usr/sbin/policy-rc.d")
"""With this in place, packages start no services of the system."""
SERVERS = {"mlflow": "mlflow[auth]==3.17.2"}
"""Servers of others that tests talk to, each in an environment of its own: what they need does not go with what we
do."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="audit the bundled pair over HTTP and show the result (--keep: go on serving)")
    commands.add_parser("serve", help="serve until Ctrl-C (--port, --models DIR, --state DIR)")
    arrow = "have a version in a local mlflow server audited, and the verdict written on it (--keep: go on serving)"
    commands.add_parser("registry", help=arrow)
    test = "run the test suite (--fast: under a minute, without servers and models; --all: fail, and skip nothing, "
    test += "where a browser or something else that tests need is missing); arguments go to pytest"
    commands.add_parser("test", help=test, add_help=False)
    commands.add_parser("check", help="lint, formatting, types, import contracts, migrations, openapi.yaml, dead code")
    commands.add_parser("fmt", help="mend what the linter can mend, and format")
    benchmarks = ", ".join(sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")))
    commands.add_parser("bench", help=f"run a benchmark: {benchmarks}; further arguments go to it", add_help=False)
    commands.add_parser("screenshots", help="make the pictures of reports in docs/ anew, in Chromium", add_help=False)
    mutants = "do the tests notice? change the code in small ways and see them fail (docs/mutants.md)"
    commands.add_parser("mutants", help=mutants, add_help=False)
    commands.add_parser("servers", help=f"install what tests run of the system's packages: {', '.join(PACKAGES)}")
    chosen, rest = parser.parse_known_args()
    if sys.version_info < (3, 11):  # noqa: UP036  the package's own bound is not read before this script runs
        return _refuse(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}", "run it with python3.11")
    if sys.platform == "win32":
        return _refuse("the embedded servers need Linux or macOS", "use WSL, or docker compose up")
    if chosen.command == "servers":
        return install_packages()
    extras = EXTRAS[chosen.command]
    if chosen.command == "test" and ("--all" in rest or (find_browser() and "--fast" not in rest)):
        extras += ",browser"
    try:
        make_environment(extras)
    except subprocess.CalledProcessError as error:
        return _refuse(
            f"setting up .venv failed at: {' '.join(map(str, error.cmd[:6]))} ...",
            "read the installer's message above; with a proxy or mirror set PIP_INDEX_URL, then try again",
        )
    except OSError as error:
        return _refuse(f"setting up .venv failed: {error}", "is the checkout writable and the disk not full?")
    if chosen.command == "test":
        if "--fast" not in rest:
            make_servers()
        # Whole folders in several processes at once, single files in one: tests/conftest.py says in how many.
        return run(*PYTEST, "-n", "auto", *rest)
    if chosen.command == "check":
        return check()
    if chosen.command == "bench":
        if not rest or not (ROOT / "benchmarks" / f"{rest[0]}.py").is_file():
            return _refuse(f"which benchmark? there are {benchmarks}", "for example python3 dev.py bench damage")
        return run(PYTHON, "-m", f"benchmarks.{rest[0]}", *rest[1:])
    if chosen.command == "screenshots":
        return run(PYTHON, "-m", "tools.screenshots", *rest)
    if chosen.command == "mutants":
        return run(PYTHON, "-m", "tools.mutation", *rest)
    if chosen.command == "fmt":
        return fmt()
    if chosen.command == "registry":
        make_servers()
    # Replaced, not wrapped: signals reach the supervisor itself.
    os.execve(PYTHON, [str(PYTHON), "-m", "devstack", chosen.command, *rest], child_environment())  # noqa: S606  our own program, by its path, with arguments as a list


def install_packages() -> int:
    """Install the packages whose programs are missing, where this user may; otherwise say how."""
    folders = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    missing = [package for package, program in PACKAGES.items() if not shutil.which(program, path=folders)]
    if not missing:
        print(f"all there: {', '.join(PACKAGES)}")
        return 0
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if not shutil.which("apt-get"):
        return _refuse(f"{', '.join(missing)} missing, and there is no apt-get", "install them as this system does it")
    if os.geteuid() != 0:
        return _refuse(f"{', '.join(missing)} missing", f"sudo apt-get update && sudo {' '.join(command)}")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    ours = not NO_SERVICES.exists()
    if ours:
        NO_SERVICES.write_text("#!/bin/sh\nexit 101\n")
        NO_SERVICES.chmod(0o755)
    try:
        for step in (["apt-get", "update"], command):
            if subprocess.run(step, env=environment, check=False).returncode != 0:
                return _refuse(f"{' '.join(step)} failed", "read its message above")
    finally:
        if ours:
            NO_SERVICES.unlink()
    return 0


def find_browser() -> str | None:
    """Chromium, of the distribution's packages."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def _refuse(cause: str, next_step: str) -> int:
    print(f"error: {cause}\nnext: {next_step}", file=sys.stderr)
    return 2


def child_environment() -> dict[str, str]:
    """The environment of everything started here."""
    kept = dict(os.environ)
    # Without .pyc files every process would spend half a minute compiling torch and transformers again.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    kept.pop("PYTHONPATH", None)
    kept["HF_HUB_OFFLINE"] = "1"
    kept["VIRTUAL_ENV"] = str(VENV)
    return kept


def run(*command: object) -> int:
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=child_environment(), check=False).returncode


# the environment


def make_environment(extras: str) -> None:
    """Bring ``.venv`` up to date with pyproject.toml and constraints.txt; does nothing when it is."""
    wanted = fingerprint()
    have = STAMP.read_text().split("\n") if STAMP.is_file() and PYTHON.exists() else ["", ""]
    if have[0] == wanted and set(extras.split(",")) <= set(have[1].split(",")):
        return
    started = time.monotonic()
    print(f"setting up {VENV}", file=sys.stderr)
    if have[0] == wanted:
        extras = ",".join(sorted({*extras.split(","), *have[1].split(",")}))
    else:
        shutil.rmtree(VENV, ignore_errors=True)
        call([base_python(), "-m", "venv", "--without-pip", VENV])
    install(extras)
    STAMP.write_text(f"{wanted}\n{extras}")
    print(f"set up in {time.monotonic() - started:.0f} s", file=sys.stderr)


def base_python() -> str:
    """The interpreter that environments are made with. Called by the one inside ``.venv``, which goes when it is made
    anew, or inside another environment that has no pip, it is the one that stands behind that."""
    own = Path(sys.prefix).resolve() == VENV.resolve()
    bare = sys.prefix != sys.base_prefix and importlib.util.find_spec("pip") is None
    if not (own or bare):
        return sys.executable
    return str(sys._base_executable)  # type: ignore[attr-defined]  # as the module venv itself finds it


def fingerprint() -> str:
    """Changes when the environment must be made anew."""
    found = hashlib.sha256(f"{sys.version_info[:2]} {ROOT}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        found.update((ROOT / name).read_bytes())
    return found.hexdigest()


def install(extras: str) -> None:
    """Install this checkout, editable, with uv where pip can bring it and with pip itself elsewhere."""
    install_into(PYTHON, "-c", ROOT / "constraints.txt", "-e", f"{ROOT}[{extras}]")


def install_into(python: Path, *wanted: object) -> None:
    environment = child_environment()
    if uv := find_uv():
        local = os.environ.get("PIP_FIND_LINKS")
        # uv does not read pip's variables: hand over what the machine's owner configured for pip.
        if local and "UV_FIND_LINKS" not in environment:
            environment["UV_FIND_LINKS"] = local.replace(" ", ",")
        elif not local:
            environment.setdefault("UV_TORCH_BACKEND", "auto")
        if "PIP_INDEX_URL" in environment:
            environment.setdefault("UV_DEFAULT_INDEX", environment["PIP_INDEX_URL"])
        call([uv, "pip", "install", "-q", "--python", python, *wanted], environment)
        return
    call([base_python(), "-m", "pip", "--python", python, "install", "-q", *wanted])


def make_servers() -> None:
    """Bring the servers that tests and demonstrations talk to up to date. Where one is not to be had, they say so."""
    for name, wanted in SERVERS.items():
        folder = VENV / "servers" / name
        stamp = folder / "spinal.stamp"
        if stamp.is_file() and stamp.read_text() == wanted:
            continue
        started = time.monotonic()
        print(f"setting up {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            call([base_python(), "-m", "venv", "--without-pip", folder])
            install_into(folder / "bin" / "python", wanted)
            stamp.write_text(wanted)
        except (OSError, subprocess.CalledProcessError):
            shutil.rmtree(folder, ignore_errors=True)
            print(f"{wanted} is not to be had: tests that need it are left out", file=sys.stderr)
            continue
        print(f"set up in {time.monotonic() - started:.0f} s", file=sys.stderr)


def find_uv() -> Path | None:
    """uv inside ``.venv``, put there by pip; None when it cannot be had."""
    folder = VENV / "installer"
    binary = folder / "bin" / "uv"
    if not binary.is_file():
        pip = [base_python(), "-m", "pip", "install", "-q", "--target", str(folder), "uv"]
        done = subprocess.run(pip, capture_output=True, text=True, env=child_environment(), check=False)
        if done.returncode != 0:
            print("uv is not to be had, installing with pip (slower)", file=sys.stderr)
            return None
    return binary


def call(command: list[object], environment: dict[str, str] | None = None) -> None:
    subprocess.run([str(part) for part in command], env=environment or child_environment(), check=True)


# checks


def check() -> int:
    """Every static check; goes on after a failure so that one run shows all."""
    binaries = VENV / "bin"
    checks = {
        "lint": (binaries / "ruff", "check", "--no-cache", "."),
        "formatting": (binaries / "ruff", "format", "--no-cache", "--check", "."),
        "types": (binaries / "mypy", "--no-error-summary"),
        "import contracts": (binaries / "lint-imports", "--no-cache"),
        "openapi.yaml, boundaries, dead code": (*PYTEST, "-m", "not server", "tests/contract"),
        "migrations": (*PYTEST, "tests/ledger/test_migrations.py"),
    }
    failed = []
    for name, command in checks.items():
        print(f"== {name}", flush=True)
        if run(*command) != 0:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


def fmt() -> int:
    """Mend what the linter can mend, then format; 1 when something is left for a person."""
    ruff = VENV / "bin" / "ruff"
    return max(run(ruff, "check", "--no-cache", "--fix", "."), run(ruff, "format", "--no-cache", "."))


if __name__ == "__main__":
    sys.exit(main())
