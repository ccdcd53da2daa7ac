"""What holds for every container of docker-compose.yml and compose.worker.yml, read from the files: which settings
reach it, what it may use up, and that nothing in it can gain a right."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FILES = ("docker-compose.yml", "compose.worker.yml")
TEXT = {file: (ROOT / file).read_text() for file in FILES}
SERVICES: dict[str, dict[str, dict[str, Any]]] = {file: yaml.safe_load(text)["services"] for file, text in TEXT.items()}
ALL = [(file, name) for file in FILES for name in SERVICES[file]]
OWN = [(file, name) for file, name in ALL if "SPINAL_TAG" in SERVICES[file][name]["image"]]
EXAMPLE = (ROOT / ".env.example").read_text()
GIVEN = re.compile(r"(?<!\$)\$\{(\w+)(?::?[-?][^}]*)?\}")
FIXED = {
    "SPINAL_WARM_ENGINE": "its image has none",
    "SPINAL_DATABASE_URL": "the service of that name in the same file",
    "SPINAL_BROKER_URL": "the same",
    "SPINAL_MODEL_SOURCES_FILE": "the folder of it is mounted there",
    "SPINAL_MODEL_STORE": "the volume is mounted there",
    "SPINAL_DEVICE": "what the worker of that name is for",
    "SPINAL_METRICS_PORT": "a port of the container, which nothing publishes",
    "SPINAL_API_METRICS_PORT": "the same",
    "SPINAL_METRICS_HOST": "the same",
    "SPINAL_ALIVE_DIR": "a folder of the container, where its health check looks",
}
"""Settings whose value is part of how a container is put together, and why."""


def of(file: str, name: str) -> dict[str, Any]:
    return SERVICES[file][name]


@pytest.mark.parametrize(("file", "name"), OWN)
def test_every_setting_can_be_given(file: str, name: str) -> None:
    service = of(file, name)
    assert {"path": ".env.spinal", "required": False} in service["env_file"]
    # What stands in `environment` goes before the file: it has to come from outside itself.
    for variable, value in service["environment"].items():
        if variable in FIXED:
            continue
        from_outside = GIVEN.findall(str(value))
        assert from_outside, f"{variable} can be set neither in .env nor in .env.spinal"
        assert set(from_outside) <= set(named_in_the_example())


def named_in_the_example() -> dict[str, bool]:
    """Variable -> whether it has to be filled in."""
    found = re.findall(r"^(#?)(\w+)=(.*)$", EXAMPLE, flags=re.MULTILINE)
    assert all(comment or not value for comment, _, value in found), "no value of a secret is an example of one"
    return {name: not comment for comment, name, _ in found}


def test_the_example_names_what_the_files_read_and_nothing_else() -> None:
    named = named_in_the_example()
    read = {variable for text in TEXT.values() for variable in GIVEN.findall(text)}
    assert read == set(named)
    required = set(re.findall(r"(?<!\$)\$\{(\w+):?\?", TEXT["docker-compose.yml"]))
    assert required == {name for name, must in named.items() if must}


def test_a_default_in_the_example_is_the_one_of_the_files() -> None:
    for name, value in re.findall(r"^#(\w+)=(.*)$", EXAMPLE, flags=re.MULTILINE):
        defaults = {default for text in TEXT.values() for default in re.findall(rf"\$\{{{name}:?-([^}}]*)\}}", text)}
        if defaults and name != "SPINAL_ARTIFACTS_DIR":
            assert defaults == {value}, name


@pytest.mark.parametrize(("file", "name"), ALL)
def test_no_container_can_fill_the_host_or_gain_a_right(file: str, name: str) -> None:
    service = of(file, name)
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["pids_limit"]) > 0
    limit = str(service["mem_limit"])
    if limit.endswith(":-0}"):
        assert re.search(rf"^ +# No limit unless one is given: .+\n(?: +#.+\n)* +mem_limit: {re.escape(limit)}$",
                         TEXT[file], flags=re.MULTILINE), "why there is none is not said"  # fmt: skip
    else:
        assert re.fullmatch(r"(?:\$\{\w+:-)?[1-9]\d*[mg]\}?", limit)


@pytest.mark.parametrize(("file", "name"), OWN)
def test_own_containers_need_no_rights_and_write_where_they_were_told(file: str, name: str) -> None:
    service = of(file, name)
    assert "cap_add" not in service
    assert service["read_only"] is True
    assert service["init"] is True
    assert all(re.search(r":(?:.*,)?size=\d+m", place) for place in service["tmpfs"]), "half of the memory otherwise"


def environment_of_image(file: str, name: str) -> tuple[str, dict[str, str]]:
    """(Dockerfile, its ENV) of the image that a service runs."""
    builds = [
        each["build"]
        for each in SERVICES[file].values()
        if each["image"] == of(file, name)["image"] and "build" in each
    ]
    text = (ROOT / builds[0]["dockerfile"]).read_text()
    lines = re.findall(r"^ENV ((?:.+\\\n)*.+)$", text, flags=re.MULTILINE)
    return text, dict(pair.split("=", 1) for line in lines for pair in line.replace("\\\n", " ").split())


@pytest.mark.parametrize(("file", "name"), OWN)
def test_an_image_has_the_folders_that_it_names(file: str, name: str) -> None:
    text, environment = environment_of_image(file, name)
    made = set(re.findall(r"install -d -o spinal (?:-m \d+ )?(\S+)", text))
    named = {environment[variable] for variable in ("SPINAL_SCRATCH_DIR", "SPINAL_MODEL_STORE")}
    assert named | {environment["SPINAL_ARTIFACT_URL"].removeprefix("file://")} == made
    assert environment["HOME"] == "/home/spinal"
    assert re.search(r"useradd .*--create-home spinal", text)
    fields = {f"SPINAL_{field.upper()}" for field in Settings.model_fields}
    assert {variable for variable in environment if variable.startswith("SPINAL_")} <= fields


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, name in OWN if name.startswith("worker")])
def test_captures_being_written_are_on_a_volume_and_not_in_memory(file: str, name: str) -> None:
    _, environment = environment_of_image(file, name)
    mounted = [volume.split(":")[-1] for volume in of(file, name)["volumes"]]
    assert environment["SPINAL_SCRATCH_DIR"] in mounted
    assert environment["SPINAL_MODEL_STORE"] in mounted


@pytest.mark.parametrize("name", list(SERVICES["compose.worker.yml"]))
def test_a_worker_on_another_host_is_the_same_worker(name: str) -> None:
    there, here = of("compose.worker.yml", name), of("docker-compose.yml", name)
    # Addresses of its own, nothing to wait for, and no pepper: it looks at no keys.
    assert {key: value for key, value in there.items() if key != "environment"} == {
        key: value for key, value in here.items() if key not in ("environment", "depends_on")
    }
    for variable in ("SPINAL_DATABASE_URL", "SPINAL_BROKER_URL", "SPINAL_ARTIFACT_URL"):
        assert re.match(rf"\$\{{{variable}:\?", there["environment"][variable]), variable
    assert "SPINAL_KEY_PEPPER" not in there["environment"]


@pytest.mark.parametrize(("file", "name"), ALL)
def test_another_image_is_a_variable_away(file: str, name: str) -> None:
    assert re.match(r"\$\{SPINAL_\w+_IMAGE:-[a-z0-9/:-]+\}", of(file, name)["image"])


def test_workers_with_and_without_gpus_have_images_of_their_own() -> None:
    cpu, gpu = (of("docker-compose.yml", name) for name in ("worker-cpu", "worker-gpu"))
    assert cpu["image"].endswith("-cpu")
    assert gpu["image"].endswith("-cuda")
    dockerfile = (ROOT / "docker/worker.Dockerfile").read_text()
    for service in (cpu, gpu):
        assert all(f"ARG {argument}=" in dockerfile for argument in service["build"]["args"])
    assert gpu["command"][-1] == gpu["deploy"]["resources"]["reservations"]["devices"][0]["count"]


def test_what_the_image_of_the_service_runs_needs_no_torch() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    heavy = [re.split(r"[^\w-]", each)[0] for each in extras["local"]]
    code = (
        "import sys\n"
        "for name in sys.argv[1:]: sys.modules[name] = None\n"
        "import service.app, worker.dispatcher, service.operations.migrate\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
