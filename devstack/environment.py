"""Which of the caller's ``SPINAL_*`` variables reach the stack's processes, and what to say about the others."""

import difflib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from devstack.processes import StackError
from service.settings import Settings

PREFIX = "SPINAL_"
CLIENT_NAMES = frozenset({"SPINAL_SERVER", "SPINAL_API_KEY"})
"""Where a client finds a service; the service itself reads neither."""
OWN_WAY = {"SPINAL_MODEL_ROOTS": "--models", "SPINAL_ARTIFACT_URL": "--state", "SPINAL_SCRATCH_DIR": "--state"}
"""Options that say to the stack what these variables say to a process."""
OF_OTHER_SERVERS = {
    **{
        f"SPINAL_{name}": ""
        for name in (
            "DATABASE_URL_FILE", "DATABASE_DIRECT_URL", "DATABASE_DIRECT_URL_FILE", "DB_PASSWORD", "DB_PASSWORD_FILE",
            "BROKER_URL_FILE", "BROKER_PASSWORD", "BROKER_PASSWORD_FILE", "BROKER_TRANSPORT_OPTIONS",
            "BROKER_TRANSPORT_OPTIONS_FILE", "BROKER_TLS_CA_FILE", "KEY_PEPPER_FILE",
        )
    },
    "SPINAL_DB_POOLER": "none",
    "SPINAL_BROKER_TLS": "false",
    "SPINAL_BROKER_TLS_VERIFY": "true",
}  # fmt: skip
"""What a caller may have set for servers elsewhere, and what goes for those of the stack."""
PATHS = ("SPINAL_MODEL_SOURCES_FILE", "SPINAL_REGISTRIES_FILE", "SPINAL_MODEL_STORE", "SPINAL_GPU_LOCK_DIR")
"""What these name is named from where the caller stands; the stack's processes stand in its folder."""


def setting_names() -> frozenset[str]:
    """The variables that settings are read from."""
    return frozenset(PREFIX + name.upper() for name in Settings.model_fields)


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Everything in ``environment`` that is not the project's."""
    return {name: value for name, value in environment.items() if not name.upper().startswith(PREFIX)}


def settings_in(environment: Mapping[str, str]) -> dict[str, str]:
    """The project's variables in ``environment``, but for a client's; in capitals, as which they count."""
    given = {name.upper(): value for name, value in environment.items() if name.upper().startswith(PREFIX)}
    return {name: value for name, value in given.items() if name not in CLIENT_NAMES}


def from_here(given: Mapping[str, str]) -> dict[str, str]:
    """``given`` with absolute paths."""
    return {name: str(Path(value).absolute()) if name in PATHS and value else value for name, value in given.items()}


def handed_on(given: Mapping[str, str], decided: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The project's variables for the processes of a stack that keeps its things in ``folder``."""
    usual = {"SPINAL_LOG_FORMAT": "console", "SPINAL_MODEL_STORE": str(folder.absolute() / "models")}
    return usual | from_here(given) | dict(decided)


def warnings_about(given: Mapping[str, str], decided: Mapping[str, str]) -> list[str]:
    """One sentence for each variable that does not do what the caller may expect."""
    said = []
    for name in sorted(given):
        if name in decided and given[name] != decided[name]:
            instead = f"; use {OWN_WAY[name]}" if name in OWN_WAY else ""
            said.append(f"{name} is set by the embedded stack itself, yours is not used{instead}")
        elif name not in setting_names() and name not in decided:
            said.append(f"{name} is not a setting{_closest(name)}")
    return said


def _closest(name: str) -> str:
    # Without the prefix, which would make all of them alike.
    near = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), sorted(Settings.model_fields), n=1)
    return f"; did you mean {PREFIX}{near[0].upper()}?" if near else "; service/settings.py lists them all"


def checked_settings(variables: Mapping[str, str]) -> Settings:
    """The settings that the stack's processes will read; raises StackError naming the variables that are not valid."""
    try:
        return Settings.model_validate({name.removeprefix(PREFIX).lower(): text for name, text in variables.items()})
    except ValidationError as error:
        # What several settings say together has no place of its own.
        wrong = "; ".join(": ".join([*(PREFIX + str(name).upper() for name in part["loc"][:1]), part["msg"]])
                          for part in error.errors())  # fmt: skip
        raise StackError(f"a setting in the environment is not valid: {wrong}") from None
