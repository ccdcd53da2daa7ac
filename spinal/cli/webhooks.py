"""``spinal webhooks``: where a service tells of what has happened."""

from typing import Annotated, Any

import typer

from spinal.cli.output import say, say_json
from spinal.cli.server import DEFAULT_SERVER, ApiKey, AsJson, Server, connected, print_table
from spinal.errors import UsageError

app = typer.Typer(no_args_is_help=True, add_completion=False)
Webhook = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id, as `spinal webhooks list` shows it.")]
ONCE = "keep it: it is shown this once"


@app.callback()
def webhooks() -> None:
    """Webhooks of a service: addresses that are told when audits end and series change."""


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="Where events are sent: https://...")],
    event: Annotated[
        list[str] | None, typer.Option(help="A type (audit.failed), a group (audit.*); all of them by default.")
    ] = None,
    verdict: Annotated[
        list[str] | None, typer.Option(help="Of audits only those with this outcome: pass, warn, fail, inconclusive.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only what has this label.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only of this model, as it was submitted.")] = None,
    v1a: Annotated[bool, typer.Option("--v1a", help="Sign by a key (Ed25519), not by a shared secret.")] = False,
    description: Annotated[str | None, typer.Option(help="What it is for, for whoever lists webhooks.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Be told of events at an address. Prints its id, and the secret that signs them, which is shown this once."""
    labels = _labels(label or [])
    with connected(server, api_key) as client:
        made = client.create_webhook(
            url, events=event or ["*"], verdicts=verdict or [], labels=labels, models=model or [],
            signature="v1a" if v1a else "v1", description=description,
        )  # fmt: skip
    _say_secret(made, as_json)


def _labels(typed: list[str]) -> dict[str, str]:
    labels = {}
    for one in typed:
        key, found, value = one.partition("=")
        if not (key and found):
            raise UsageError(f"{one!r} is no label", hint="give --label KEY=VALUE")
        labels[key] = value
    return labels


def _say_secret(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(made)
        return
    say(f"{made['id']}: {made['url']}", to_stdout=True)
    if made["secret"] is not None:
        say(f"secret: {made['secret']}", to_stdout=True)
        say(ONCE)
    else:
        say(f"public key: {made['public_key']}", to_stdout=True)


@app.command("list")
def show_all(server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List all webhooks, newest first."""
    with connected(server, api_key) as client:
        found = list(client.webhooks())
    if as_json:
        say_json(found)
        return
    rows = [
        (
            one["id"],
            one["url"],
            ", ".join(one["events"]),
            _state(one),
            one["description"] or "-",
        )
        for one in found
    ]
    print_table(("id", "url", "events", "state", "description"), rows, whole=("id",))


def _state(one: dict[str, Any]) -> str:
    if not one["enabled"]:
        return f"disabled: {one['disabled_why']}"
    return "enabled" if one["failing_since"] is None else f"failing since {one['failing_since']}"


@app.command()
def rotate(
    webhook: Webhook,
    overlap: Annotated[int, typer.Option(help="Seconds for which the former secret signs, too.")] = 86_400,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make another secret, which is shown this once. Both sign during the overlap."""
    with connected(server, api_key) as client:
        made = client.rotate_webhook(webhook, overlap_s=overlap)
    _say_secret(made, as_json)


@app.command("test")
def send_test(
    webhook: Webhook, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Have an event webhook.test sent; `spinal webhooks deliveries` shows what became of it."""
    with connected(server, api_key) as client:
        told = client.test_webhook(webhook)
    if as_json:
        say_json(told)
    else:
        say(f"delivery {told['id']} is on its way; `spinal webhooks deliveries {webhook}` shows it", to_stdout=True)


@app.command()
def enable(webhook: Webhook, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Enable a webhook that was disabled. What happened meanwhile is not sent to it."""
    _switch(webhook, True, server, api_key, as_json)


@app.command()
def disable(webhook: Webhook, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Disable a webhook. What waits for it is not sent any more."""
    _switch(webhook, False, server, api_key, as_json)


def _switch(webhook: str, enabled: bool, server: str, api_key: str | None, as_json: bool) -> None:
    with connected(server, api_key) as client:
        found = client.update_webhook(webhook, enabled=enabled)
    if as_json:
        say_json(found)
    else:
        say(f"{found['id']}: {_state(found)}", to_stdout=True)


@app.command()
def deliveries(
    webhook: Webhook, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """List what a webhook was told, newest first, with its last attempt and the next one."""
    with connected(server, api_key) as client:
        found = list(client.deliveries(webhook))
    if as_json:
        say_json(found)
        return
    rows = []
    for one in found:
        last = one["tries"][-1] if one["tries"] else {"status": None, "detail": None}
        rows.append(
            (
                one["id"],
                one["type"],
                one["state"],
                str(len(one["tries"])),
                "-" if last["status"] is None else str(last["status"]),
                one["next_attempt_at"] or "-",
                one["detail"] or last["detail"] or "-",
            )
        )
    columns = ("id", "type", "state", "tries", "status", "next attempt", "detail")
    print_table(columns, rows, whole=("id", "type", "state", "tries", "status"))


@app.command()
def resend(
    webhook: Webhook,
    delivery: Annotated[str, typer.Argument(help="As `spinal webhooks deliveries` shows it.")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Have an event sent again, under the id that it had; what still waits is tried at once."""
    with connected(server, api_key) as client:
        told = client.resend(webhook, delivery)
    if as_json:
        say_json(told)
    else:
        say(f"delivery {told['id']} is on its way", to_stdout=True)


@app.command()
def delete(webhook: Webhook, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Delete a webhook. What waits for it is not sent any more."""
    with connected(server, api_key) as client:
        client.delete_webhook(webhook)
    say(f"{webhook} is gone", to_stdout=True)
