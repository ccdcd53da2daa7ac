"""``spinal attestation`` and ``spinal verify``: a signed statement about an audit, fetched, and held to files here."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from spinal.attestations.checked import REQUIRES, Checked, Require, read_attestation, require_said
from spinal.attestations.envelope import MOST_BYTES
from spinal.attestations.folder import require_files
from spinal.attestations.keys import PublicKey, read_public_key
from spinal.attestations.statement import PREDICATES
from spinal.cli.audits import Audit, alone, id_of
from spinal.cli.output import check_file, say, say_json, write_atomically
from spinal.cli.server import DEFAULT_SERVER, ApiKey, AsJson, Server, connected
from spinal.errors import UsageError

FORMATS = ("dsse", "sigstore")
MOST_KEY_BYTES = 64 * 1024


def attestation(
    audit: Audit,
    predicate: Annotated[str, typer.Option(help="What is to be stated.", metavar="|".join(PREDICATES))] = "test-result",
    format: Annotated[str, typer.Option(help="How it is written.", metavar="|".join(FORMATS))] = "dsse",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File that it is written to, in place of stdout.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the signed statement about an audit: test-result, what was found; svr, that it passed."""
    del as_json  # it is JSON in any case; errors are, where that is asked for
    _one_of("--predicate", predicate, tuple(PREDICATES))
    _one_of("--format", format, FORMATS)
    if output is not None:
        check_file(output)
    with connected(server, api_key) as client:
        found = client.attestation(id_of(audit), predicate=predicate, format=format)
    text = json.dumps(found, sort_keys=True, separators=(",", ":")) + "\n"
    if output is None:
        say(text.removesuffix("\n"), to_stdout=True)
    else:
        write_atomically(output, text)
        say(f"wrote {output}")


def verify(
    attestation: Annotated[Path, typer.Argument(help="File with an attestation: DSSE, or a bundle of Sigstore.")],
    key: Annotated[list[Path], typer.Option(help="Public key (PEM) that has to have signed it; may be repeated.")],
    model: Annotated[
        Path | None, typer.Option(help="Folder whose files have to be those that were audited, and no others.")
    ] = None,
    require: Annotated[
        str,
        typer.Option(
            help="What it has to say: pass; waived, a pass that may rest on waivers that still hold; warn; any.",
            metavar="|".join(REQUIRES),
        ),
    ] = "pass",
    policy: Annotated[str | None, typer.Option(help="sha256 of the policy that it has to be judged by.")] = None,
    prop: Annotated[
        list[str] | None, typer.Option("--property", help="Property that it has to have; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify an attestation offline. Exit 0 if it holds, 1 if it does not, 2 if it is none."""
    _one_of("--require", require, REQUIRES)
    keys = [_key(path) for path in key]
    checked = read_attestation(_read(attestation, MOST_BYTES, "attestation"), keys)
    today = datetime.now(UTC).date()
    require_said(checked, require=cast(Require, require), today=today, policy=policy, properties=prop or [])
    if model is not None:
        require_files(model, checked.files.files)
    told = _told(checked, model)
    if as_json:
        say_json(told)
        return
    said = checked.result or ", ".join(checked.properties)
    say(f"{said}: {checked.candidate}, audit {checked.audit}, signed by {checked.key[:12]}", to_stdout=True)
    for waiver in checked.waivers:
        say(f"waived until {waiver.expires}: {waiver.test} ({waiver.reason})", to_stdout=True)
    if model is None:
        say("no files were looked at: --model FOLDER holds them to it")
    else:
        say(f"the {len(checked.files.files)} files in {model} are those that were audited", to_stdout=True)
    if checked.files.base is not None:
        say(f"it is an adapter, of the base with weights digest {checked.files.base}, which is not looked at here")


COMMANDS = {"attestation": alone(attestation), "verify": alone(verify)}
"""Name -> the application that is this command."""


def _told(checked: Checked, model: Path | None) -> dict[str, Any]:
    return {
        "holds": True,
        "audit": checked.audit,
        "candidate": checked.candidate,
        "predicate_type": checked.predicate_type,
        "result": checked.result,
        "verdict": checked.verdict,
        "properties": list(checked.properties),
        "policy": checked.policy,
        "waivers": [{"test": each.test, "expires": each.expires.isoformat()} for each in checked.waivers],
        "key_id": checked.key,
        "weights_digest": checked.files.weights_digest,
        "base": checked.files.base,
        "files": dict(checked.files.files),
        "files_verified": model is not None,
    }


def _key(path: Path) -> PublicKey:
    return read_public_key(_read(path, MOST_KEY_BYTES, "key"), str(path))


def _read(path: Path, most: int, what: str) -> bytes:
    try:
        with path.open("rb") as stream:
            found = stream.read(most + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", hint=f"give the file with the {what}") from error
    if len(found) > most:
        raise UsageError(f"{path} is too large for one {what}", hint=f"give the file with the {what}")
    return found


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name}: {value!r} is not known", hint=f"one of {', '.join(known)}")
