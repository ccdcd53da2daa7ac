"""What a caller's words stand for at the moment of a request: a reference, or a registered model's version."""

from dataclasses import dataclass
from typing import Any

from service.database.unit_of_work import Reads
from service.models.names import FORMS, Named, is_reference, read_named
from service.models.store import Meaning, find_meaning
from spinal.checkpoints.sources import SOURCES, reference_forms
from spinal.errors import ModelNotFound, ModelReferenceInvalid


@dataclass(frozen=True)
class Meant:
    """What one name stood for when it was looked at."""

    reference: str
    registered: dict[str, str] | None = None
    """Name, version and, where one was named, alias of the registered model; None where a reference was given."""

    def to_json(self) -> dict[str, Any]:
        return {"reference": self.reference, "registered": self.registered}


def read_meaning(ledger: Reads, tenant: str, text: str) -> Meant:
    """What ``text`` means now: itself where it is a reference, else a version of a registered model. Raises
    ModelNotFound, and ModelReferenceInvalid where it can be neither."""
    if is_reference(text):
        return Meant(text)
    named = read_named(text)
    if named is None and ":" in text:
        # Of no form at all: whoever resolves references says so.
        return Meant(text)
    known = None
    if named is not None:
        with ledger.read() as session:
            known = find_meaning(session, tenant, named)
    if named is None or known is None:
        raise _unknown(text, named)
    if known.version is None:
        raise _without_version(known, named)
    registered = {"name": known.name, "version": known.version.version}
    return Meant(known.version.reference, registered | ({} if named.alias is None else {"alias": named.alias}))


def _unknown(text: str, named: Named | None) -> ModelNotFound | ModelReferenceInvalid:
    if named is not None and named.version is not None and "/" not in named.name:
        # Whether ``ftp:somewhere`` was to be a source or a name, nobody knows.
        return ModelReferenceInvalid(
            f"{named.name!r} is no model source that is enabled here ({', '.join(SOURCES)}), and no registered model",
            hint=f"give {reference_forms()}, or register it with POST /v1/models",
        )
    return ModelNotFound(
        f"no registered model named {(text if named is None else named.name)!r}",
        hint=f"register it with POST /v1/models and give {FORMS}, or give {reference_forms()}",
    )


def _without_version(known: Meaning, named: Named) -> ModelNotFound:
    if named.alias is not None:
        return ModelNotFound(
            f"the registered model {known.name!r} has no alias {named.alias!r}",
            hint=f"see GET /v1/models/{known.name} for those there are",
        )
    return ModelNotFound(
        f"the registered model {known.name!r} has no version {named.version!r}",
        hint=f"list them with GET /v1/models/{known.name}/versions",
    )


def pin(reference: str, source: str) -> str:
    """The reference that means from now on what ``reference`` means now, where its checkpoint is called ``source``.

    A folder is called by its path below the root in which it was found, by which another root may have one, too: its
    reference stays as it was given."""
    return reference if reference.partition(":")[0] == "local" else source
