"""Groups of ``spinal``: known here by name alone, brought in when they are called.

Some ask a service over HTTP; some belong to the service, of which the science knows nothing, and which need not be
installed where ``spinal`` is used alone.
"""

from importlib import import_module
from typing import Any

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from spinal.errors import UsageError
from spinal.extras import extra_of, install_hint

GROUPS = {
    "list": ("spinal.cli.audits:COMMANDS", "List audits, newest first."),
    "show": ("spinal.cli.audits:COMMANDS", "Show an audit: where it stands, its verdict, why it failed."),
    "wait": ("spinal.cli.audits:COMMANDS", "Wait for an audit."),
    "cancel": ("spinal.cli.audits:COMMANDS", "Cancel an audit."),
    "attestation": ("spinal.cli.attestations:COMMANDS", "Fetch the signed statement about an audit."),
    "verify": ("spinal.cli.attestations:COMMANDS", "Verify an attestation, and files against it, offline."),
    "link": ("spinal.cli.audits:COMMANDS", "A link to a report, for people without a key."),
    "models": ("spinal.cli.models:app", "Models of a service: register, list."),
    "prompts": ("spinal.cli.prompts:app", "Prompt sets of a service: push, list, show."),
    "policies": ("spinal.cli.policies:app", "Policies of a service: push, list, show."),
    "webhooks": ("spinal.cli.webhooks:app", "Webhooks of a service: create, list, rotate, test, delete."),
}
"""Those that ask a service. Name -> (where its Typer application is, what it is for)."""
OPERATORS = {
    "keys": ("service.keys.commands:app", "API keys: list, create, rotate, revoke."),
    "links": ("service.links.commands:app", "Links to reports: end all of a tenant."),
    "database": ("service.operations.commands:database", "The service's database: upgrade, downgrade, current."),
    "tenants": ("service.operations.commands:tenants", "Tenants of the service: list, delete one's data."),
    "retention": ("service.operations.commands:retention", "Delete what can be made again."),
    "doctor": ("service.operations.commands:doctor", "Check what must always hold in the ledger."),
}
"""Those that belong to the service, told alike."""


class CommandsAndOperators(TyperGroup):
    """The commands of this package, and those of the service behind them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *GROUPS, *OPERATORS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in GROUPS | OPERATORS:
            return _Group(cmd_name)
        return super().get_command(ctx, cmd_name)


class _Group(TyperCommand):
    """Stands for a group in ``spinal --help``, and becomes it when it is called."""

    def __init__(self, name: str) -> None:
        self._target, about = (GROUPS | OPERATORS)[name]
        super().__init__(name, help=about)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self._load().make_context(info_name, args, parent, **extra)

    def _load(self) -> Any:
        module, _, attribute = self._target.partition(":")
        try:
            found = getattr(import_module(module), attribute)
            return get_command(found[self.name] if isinstance(found, dict) else found)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "service":
                raise UsageError(
                    f"spinal {self.name} belongs to the service, which is not installed here",
                    hint="call it in a checkout of the repository, or in the service's image",
                ) from error
            raise UsageError(
                f"spinal {self.name} needs the package {error.name!r}",
                hint=install_hint(extra_of(error.name or "") or "service"),
            ) from error
