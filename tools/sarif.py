"""The official validator over SARIF files: ``python -m tools.sarif FILE...``.

Runs ``@microsoft/sarif-multitool`` (MIT) with the rules of the format and of GitHub's code scanning; npm installs it
once, into ``.spinal/tools`` of the checkout. Prints every error and warning. Exit 0 where there is none, 1 where there
is one, 3 where the validator is not to be had.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VERSION = "5.7.0"
PACKAGE = "@microsoft/sarif-multitool"
PLACE = ROOT / ".spinal" / "tools" / f"sarif-multitool-{VERSION}"
RULES = "Sarif;Ghas"
COUNTED = ("error", "warning")
"""Levels that make a file invalid. Notes are advice: snippets of code, numbered rules, addresses that are reachable."""
MINUTES = 300


class Unavailable(Exception):
    """There is no validator here: no npm, or none that reaches its registry."""


def validator() -> Path:
    """The validator's program, installed when it is not there yet. Raises Unavailable."""
    system = {"Linux": "linux", "Darwin": "darwin"}.get(platform.system(), "win32")
    program = PLACE / "node_modules" / f"{PACKAGE}-{system}" / "Sarif.Multitool"
    if not program.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("npm is not installed")
        PLACE.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", str(PLACE), "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                [*command, f"{PACKAGE}@{VERSION}"], capture_output=True, text=True, check=False, timeout=MINUTES
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"npm did not install {PACKAGE} in {MINUTES} s") from error
        if done.returncode or not program.is_file():
            raise Unavailable(f"npm could not install {PACKAGE}@{VERSION}: {done.stderr.strip()[-300:]}")
    # What its install script would do, which is not run.
    program.chmod(program.stat().st_mode | 0o100)
    return program


def findings(files: list[Path]) -> list[str]:
    """What the validator has against the files, worst level first; a line each. Raises Unavailable."""
    program = validator()
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "found.sarif"
        command = [str(program), "validate", *map(str, files), "--rule-kind", RULES, "--output", str(written)]
        # Without ICU the .NET runtime does not start; the validator compares no texts of people.
        environment = os.environ | {"DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1"}
        done = subprocess.run(
            [*command, "--level", "Error;Warning"], capture_output=True, text=True, check=False, env=environment,
            timeout=MINUTES,
        )  # fmt: skip
        if not written.is_file():
            raise Unavailable(f"the validator did not run: {(done.stdout + done.stderr).strip()[-300:]}")
        run = json.loads(written.read_text(encoding="utf-8-sig"))["runs"][0]
    failed = [
        f"error: {notice['message']['text']}"
        for invocation in run.get("invocations", [])
        for kind in ("toolExecutionNotifications", "toolConfigurationNotifications")
        for notice in invocation.get(kind, [])
        if notice.get("level") == "error"
    ]
    counted = [one for one in run.get("results", []) if one.get("level", "warning") in COUNTED]
    if len(run.get("artifacts", [])) < len(files) and done.returncode:
        failed.append(f"error: not every file was read: {done.stdout.strip()[-300:]}")
    return failed + sorted(_line(one) for one in counted)


def _line(result: dict[str, Any]) -> str:
    place = result["locations"][0]["physicalLocation"] if result.get("locations") else {}
    name = Path(place.get("artifactLocation", {}).get("uri", "")).name
    line = place.get("region", {}).get("startLine", 0)
    message = result["message"]
    told = message.get("text") or " ".join(message.get("arguments", []))
    return f"{result.get('level', 'warning')}: {name}:{line}: {result['ruleId']}: {told}"


def main(arguments: list[str]) -> int:
    if not arguments or any(argument.startswith("-") for argument in arguments):
        print("usage: python -m tools.sarif FILE...", file=sys.stderr)
        return 2
    files = [Path(argument) for argument in arguments]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        print(f"error: no file {', '.join(missing)}", file=sys.stderr)
        return 2
    try:
        found = findings(files)
    except Unavailable as error:
        print(f"error: {error}\nnext: install Node.js with npm, and let it reach its registry once", file=sys.stderr)
        return 3
    print("\n".join(found) if found else f"{len(files)} valid")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
