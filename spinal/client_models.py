"""What :class:`spinal.Client` does with registered models."""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from spinal.connection import Calls, JsonObject

MODEL = ("name", "reference")
"""Members that a model, and a version of one, always has."""


class ModelCalls(Calls):
    """Names that the service has for model references, with their versions and aliases."""

    def register_model(
        self,
        name: str,
        reference: str,
        *,
        version: str | None = None,
        aliases: Sequence[str] = (),
        description: str | None = None,
        labels: dict[str, str] | None = None,
    ) -> JsonObject:
        """Give a model reference a name, ``base`` or ``acme/base``, and a first version, ``1`` where none is given;
        raises ModelNameTaken.

        Examples
        --------
        >>> client.register_model("acme/base", "local:sft", aliases=["champion"])["version"]
        '1'
        """
        body = {"name": name, "reference": reference, "version": version, "description": description, "labels": labels}
        sent = {member: value for member, value in body.items() if value is not None}
        return self._json(
            "POST", "/v1/models", json=sent | {"aliases": list(aliases)} if aliases else sent, needs=MODEL
        )

    def models(self) -> Iterator[JsonObject]:
        """All registered models, each as its newest version is, page by page.

        Examples
        --------
        >>> [model["reference"] for model in client.models()]
        ['local:sft']
        """
        return self._pages("/v1/models", {})

    def model(self, name: str) -> JsonObject:
        """A registered model by name or id, as its newest version is, with all its aliases; raises
        RegisteredModelNotFound.

        Examples
        --------
        >>> client.model("acme/base")["aliases"]
        {'champion': '1'}
        """
        return self._json("GET", _of(name), needs=MODEL)

    def update_model(self, name: str, **changes: Any) -> JsonObject:
        """Give a registered model another ``description``, other ``labels``, or both.

        Examples
        --------
        >>> client.update_model("acme/base", description="the SFT base")["description"]
        'the SFT base'
        """
        return self._json("PATCH", _of(name), json=changes, needs=MODEL)

    def delete_model(self, name: str) -> None:
        """Take back a name with all its versions and aliases. Audits that named it keep what it meant.

        Examples
        --------
        >>> client.delete_model("acme/base")
        """
        self._send("DELETE", _of(name))

    def register_version(
        self, name: str, version: str, reference: str, *, labels: dict[str, str] | None = None
    ) -> JsonObject:
        """Register a version of a model, its newest from now on. The same one again changes nothing; raises
        ModelVersionTaken where it means something else.

        Examples
        --------
        >>> client.register_version("acme/base", "2", "local:dpo-short")["reference"]
        'local:dpo-short'
        """
        body = {"version": version, "reference": reference, "labels": labels or {}}
        return self._json("POST", _of(name, "/versions"), json=body, needs=MODEL)

    def versions(self, name: str) -> Iterator[JsonObject]:
        """All versions of a registered model, newest first, page by page.

        Examples
        --------
        >>> [found["version"] for found in client.versions("acme/base")]
        ['2', '1']
        """
        return self._pages(_of(name, "/versions"), {})

    def version(self, name: str, version: str) -> JsonObject:
        """One version of a registered model; raises RegisteredModelNotFound, ModelVersionNotFound.

        Examples
        --------
        >>> client.version("acme/base", "2")["reference"]
        'local:dpo-short'
        """
        return self._json("GET", _of(name, f"/versions/{quote(version, safe='')}"), needs=MODEL)

    def delete_version(self, name: str, version: str) -> None:
        """Take back a version; raises ModelVersionInUse where an alias points at it, or the model has no other.

        Examples
        --------
        >>> client.delete_version("acme/base", "2")
        """
        self._send("DELETE", _of(name, f"/versions/{quote(version, safe='')}"))

    def move_alias(self, name: str, alias: str, version: str) -> JsonObject:
        """Let an alias point at a version, whether it is new or pointed at another; raises ModelVersionNotFound.

        Examples
        --------
        >>> client.move_alias("acme/base", "champion", "2")["version"]
        '2'
        """
        path = _of(name, f"/aliases/{quote(alias, safe='')}")
        return self._json("PUT", path, json={"version": version}, needs=(*MODEL, "version"))

    def delete_alias(self, name: str, alias: str) -> None:
        """Take back an alias; the version at which it points stays.

        Examples
        --------
        >>> client.delete_alias("acme/base", "champion")
        """
        self._send("DELETE", _of(name, f"/aliases/{quote(alias, safe='')}"))


def _of(name: str, what: str = "") -> str:
    return f"/v1/models/{quote(name)}{what}"
