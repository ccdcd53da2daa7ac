"""docker-compose.yml and the image files agree with the code, checked without a container engine."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import kombu
import pytest
import yaml

from service.platform import addresses
from service.settings import Settings
from spinal.checkpoints.sources.reach import load_source_settings
from spinal.cli.operators import OPERATORS

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OTHERS = {"postgres", "redis"}
OWN = {name: service for name, service in SERVICES.items() if name not in OTHERS}
LOOKS_AT_MODELS = {"api", "worker-cpu", "worker-gpu"}
KNOWS_REGISTRIES = {"api", "dispatcher", "deliverer"}
"""They are asked, told of what has ended, and written to; whose versions are read by the sources of models."""
PEPPER = "SPINAL_KEY_PEPPER"
WITH_PEPPER = {"api", "deliverer"}
SECRETS = ("SPINAL_DB_PASSWORD", "SPINAL_BROKER_PASSWORD", PEPPER)


def secrets_of(name: str) -> tuple[str, ...]:
    """Keys are looked at by the API alone, and made in its container; the deliverer derives secrets of webhooks."""
    return tuple(variable for variable in SECRETS if variable != PEPPER or name in WITH_PEPPER)


def test_every_part_of_the_service_is_there() -> None:
    assert set(SERVICES) == OTHERS | {"migrate", "api", "dispatcher", "deliverer", "worker-cpu", "worker-gpu"}
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    assert SERVICES["migrate"]["restart"] == "no"


@pytest.mark.parametrize("name", OWN)
def test_command_names_what_exists(name: str) -> None:
    command = OWN[name]["command"]
    if command[0] == "spinal":
        module, _, attribute = OPERATORS[command[1]][0].partition(":")
        assert f"{attribute} = typer.Typer(" in _source(module)
        assert f"def {command[2]}(" in _source(module)
        return
    assert command[:2] == ["python", "-m"]
    modules = [command[2]]
    if command[2] == "uvicorn":
        module, _, factory = command[3].partition(":")
        modules.append(module)
        assert f"def {factory}(" in _source(module)
    if command[2] == "celery":
        modules.append(command[command.index("-A") + 1])
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text()


@pytest.mark.parametrize("name", OWN)
def test_every_variable_is_a_setting(name: str) -> None:
    fields = {f"SPINAL_{field.upper()}" for field in Settings.model_fields}
    assert set(OWN[name]["environment"]) <= fields


@pytest.mark.parametrize("name", OWN)
def test_secrets_have_no_default(name: str) -> None:
    # Set to nothing they are refused by those who use them: secrets may come as files.
    given = {variable: f"${{{variable}?set {variable}}}" for variable in secrets_of(name)}
    assert {key: value for key, value in OWN[name]["environment"].items() if key in SECRETS} == given


@pytest.mark.parametrize("password", ["p@ss/w:rd", "x/y", "a#b?c", "%41", "ü ẞ", '"quoted"\'s'])
def test_any_password_reaches_database_and_broker_as_it_is(password: str) -> None:
    """What compose puts into the environment is what processes are given: nothing of it is pasted into an address."""
    given = dict.fromkeys(SECRETS, password)
    for name in OWN:
        environment = {
            key.removeprefix("SPINAL_").lower(): re.sub(r"\$\{(\w+)\?[^}]*\}", lambda found: given[found[1]], value)
            for key, value in OWN[name]["environment"].items()
            if key in SECRETS or key in ("SPINAL_DATABASE_URL", "SPINAL_BROKER_URL")
        }
        settings = Settings.model_validate(environment)
        database = addresses.database_url(settings)
        assert (database.host, database.username, database.password) == ("postgres", "spinal", password)
        found = kombu.Connection(addresses.broker(settings).url)
        assert (found.hostname, found.password, found.virtual_host) == ("redis", password, "0")
        assert settings.key_pepper.get_secret_value() == (password if name in WITH_PEPPER else "")
    for variable, image in (("POSTGRES_PASSWORD", "postgres"), ("REDISCLI_AUTH", "redis")):
        assert re.fullmatch(r"\$\{SPINAL_\w+_PASSWORD\?[^}]*\}", SERVICES[image]["environment"][variable])


def test_with_secrets_as_files_no_process_is_given_one_otherwise() -> None:
    class Loader(yaml.SafeLoader):
        """That of YAML, and what compose adds."""

    Loader.add_constructor("!reset", lambda loader, node: None)
    override = yaml.load((ROOT / "docker" / "compose.secrets.yml").read_text(), Loader)
    assert set(override["services"]) == set(SERVICES)
    for name in OWN:
        changed = override["services"][name]
        environment = OWN[name]["environment"] | changed["environment"]
        assert {variable for variable in environment if variable.startswith(SECRETS)} == {
            each for variable in secrets_of(name) for each in (variable, f"{variable}_FILE")
        }
        files = [environment[f"{variable}_FILE"].removeprefix("/run/secrets/") for variable in secrets_of(name)]
        assert files == changed["secrets"]
        for variable in secrets_of(name):
            assert environment[variable] == ""
            assert f"{variable}_FILE".removeprefix("SPINAL_").lower() in Settings.model_fields
    for image, variable in (("postgres", "POSTGRES_PASSWORD"), ("redis", "REDISCLI_AUTH")):
        assert override["services"][image]["environment"][variable] is None
        assert set(override["services"][image]["secrets"]) <= set(override["secrets"])


def image_file(name: str) -> str:
    """Text of the Dockerfile of the image that a service runs."""
    [build] = [other["build"] for other in OWN.values() if other["image"] == OWN[name]["image"] and "build" in other]
    return (ROOT / build["context"] / build["dockerfile"]).read_text()


def test_an_image_is_built_once_by_what_is_always_there_when_it_is_used() -> None:
    for name, service in OWN.items():
        builders = [each for each, other in OWN.items() if other["image"] == service["image"] and "build" in other]
        assert len(builders) == 1, "two builds of one tag go on at once, and leave an image without a name"
        assert builders == [name] or builders[0] in service["depends_on"]


@pytest.mark.parametrize("name", OWN)
def test_what_image_files_copy_exists(name: str) -> None:
    copied = re.findall(r"^COPY (.+) \S+$", image_file(name), flags=re.MULTILINE)
    assert copied
    for sources in copied:
        for source in sources.split():
            assert (ROOT / source).exists(), source


@pytest.mark.parametrize("name", OWN)
def test_image_extra_is_declared(name: str) -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    dockerfile = image_file(name)
    named = re.findall(r'"\.\[([a-z0-9,]+)\]"', dockerfile)
    assert named
    assert set(named[0].split(",")) <= set(extras)


def test_workers_listen_on_the_queue_of_their_device_class() -> None:
    """And somebody listens on the one of deliveries, who imports no engine."""
    assert OWN["deliverer"]["image"] == OWN["api"]["image"]
    assert OWN["deliverer"]["environment"]["SPINAL_WARM_ENGINE"] == "false"
    for name, queue in (
        ("worker-cpu", "cpu"),
        ("worker-gpu", "gpu"),
        ("deliverer", Settings.model_fields["delivery_queue"].default),
    ):
        command = SERVICES[name]["command"]
        assert command[command.index("--queues") + 1] == queue
    assert SERVICES["worker-gpu"]["environment"]["SPINAL_DEVICE"] == "cuda"
    assert SERVICES["worker-cpu"]["environment"]["SPINAL_TRACE_QUEUE"] == "${SPINAL_TRACE_QUEUE:-cpu}"


def test_nothing_starts_before_what_it_needs() -> None:
    for service in SERVICES.values():
        for needed in service.get("depends_on", {}):
            assert needed in SERVICES
    for name in ("api", "dispatcher", "worker-cpu", "worker-gpu"):
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert "redis" not in SERVICES["api"]["depends_on"], "audits are accepted while the broker is down"


def test_named_volumes_are_declared() -> None:
    sources = [
        re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":", 1)[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
    ]
    assert {source for source in sources if not source.startswith((".", "/"))} == set(COMPOSE["volumes"])


def mounts(name: str) -> dict[str, str]:
    """Place in the container -> what is mounted there."""
    found = [re.fullmatch(r"((?:\$\{[^}]*\}|[^:])+):([^:]+)(?::ro)?", volume) for volume in OWN[name]["volumes"]]
    return {each[2]: each[1] for each in found if each is not None}


@pytest.mark.parametrize("name", OWN)
def test_whoever_looks_at_models_has_the_store_and_the_sources_and_nobody_else_has_their_secrets(name: str) -> None:
    environment, mounted = OWN[name]["environment"], mounts(name)
    places = {"/var/lib/spinal/models", "/etc/spinal/sources"}
    if name in KNOWS_REGISTRIES - LOOKS_AT_MODELS:
        assert places & set(mounted) == {"/etc/spinal/sources"}
        assert {variable for variable in environment if variable.startswith("SPINAL_MODEL_S")} == {
            "SPINAL_MODEL_SOURCES_FILE"
        }
        assert mounted["/etc/spinal/sources"] == mounts("api")["/etc/spinal/sources"]
        return
    if name not in LOOKS_AT_MODELS:
        assert not places & set(mounted)
        assert not {variable for variable in environment if variable.startswith("SPINAL_MODEL_S")}
        return
    assert mounted[environment["SPINAL_MODEL_STORE"]] == "model-store"
    file = Path(environment["SPINAL_MODEL_SOURCES_FILE"])
    assert str(file.parent) in mounted
    assert f"{mounted[str(file.parent)]}:{file.parent}:ro" in OWN[name]["volumes"]
    assert {"/models", "/var/lib/spinal/artifacts"} <= set(mounted)


@pytest.mark.parametrize("name", OWN)
def test_registries_are_known_to_whoever_deals_with_them_and_to_nobody_where_none_is_set_up(name: str) -> None:
    given = OWN[name]["environment"].get("SPINAL_REGISTRIES_FILE")
    assert given == ("${SPINAL_REGISTRIES_FILE:-}" if name in KNOWS_REGISTRIES else None)
    if given is not None:
        assert Settings.model_validate({"registries_file": ""}).registries.by_name == {}
        assert "/etc/spinal/sources" in mounts(name)


@pytest.mark.parametrize("name", sorted(LOOKS_AT_MODELS))
def test_an_image_makes_the_store_private_for_the_user_it_runs_as(name: str) -> None:
    assert f"install -d -o spinal -m 700 {OWN[name]['environment']['SPINAL_MODEL_STORE']}\n" in image_file(name)


def test_the_same_user_owns_the_store_in_every_image() -> None:
    users = [re.findall(r"--uid (\d+) |^USER (.+)$", image_file(name), flags=re.MULTILINE) for name in LOOKS_AT_MODELS]
    assert users == [[("10001", ""), ("", "10001")]] * len(users), "by number: a cluster that refuses root reads it"


def test_the_sources_that_are_mounted_by_default_are_none() -> None:
    folder = re.findall(r":-([^}]+)\}", mounts("api")["/etc/spinal/sources"])[0]
    text = (ROOT / folder / "sources.yaml").read_text()
    assert load_source_settings(text).everybody == {}


def test_the_bound_of_the_store_is_a_number_that_settings_take() -> None:
    given = OWN["api"]["environment"]["SPINAL_MODEL_STORE_BYTES"]
    default = re.findall(r":-(.+)\}", given)[0]
    assert Settings.model_validate({"model_store_bytes": default}).model_store_bytes == 200 * 2**30


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in published["api"])


@pytest.mark.parametrize("name", OWN)
def test_an_image_finds_what_no_wheel_holds(name: str) -> None:
    dockerfile = image_file(name)
    folder = re.findall(r"^WORKDIR (\S+)$", dockerfile, flags=re.MULTILINE)
    assert re.findall(r"^ENV PYTHONPATH=(\S+)$", dockerfile, flags=re.MULTILINE) == folder
    copied = {target for _, target in re.findall(r"^COPY (\S+) (\S+)$", dockerfile, flags=re.MULTILINE)}
    assert {"spinal", "service", "worker", "migrations"} <= copied


@pytest.mark.parametrize("name", ["dispatcher", "worker-cpu", "worker-gpu"])
def test_dispatchers_and_workers_are_watched_by_a_command_that_finds_their_file(name: str) -> None:
    test = OWN[name]["healthcheck"]["test"]
    assert test[:3] == ["CMD", "python", "-m"]
    assert importlib.util.find_spec(test[3]) is not None
    folder = OWN[name]["environment"]["SPINAL_ALIVE_DIR"]
    # Gone with its container, and written to by the user of the image below a read-only root.
    assert any(folder.startswith(f"{place.partition(':')[0]}/") for place in OWN[name]["tmpfs"])
