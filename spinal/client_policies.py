"""What :class:`spinal.Client` does with policies."""

from collections.abc import Iterator
from urllib.parse import quote

from spinal.connection import Calls, JsonObject


class PolicyCalls(Calls):
    """Policies of the service: stored once, named by audits."""

    def push_policy(self, document: JsonObject | str) -> JsonObject:
        """Store a policy: its members, or their YAML. The same one again changes nothing; raises PolicyNameTaken where
        its name and version stand for other rules.

        Examples
        --------
        >>> strict = {"name": "acme-release/1", "rules": [{"name": "nll", "value": "damage.nll_change", "bad": "above",
        ...           "limit": 0.05, "severity": "fail"}]}
        >>> client.push_policy(strict)["name"]
        'acme-release/1'
        """
        if isinstance(document, str):
            media_type = {"Content-Type": "application/yaml"}
            return self._json("POST", "/v1/policies", content=document.encode(), headers=media_type)
        return self._json("POST", "/v1/policies", json=document)

    def policy(self, named: str) -> JsonObject:
        """A policy with its document, by name and version or by digest.

        Examples
        --------
        >>> client.policy("acme-release/1")["document"]["rules"][0]["limit"]
        0.05
        """
        return self._json("GET", f"/v1/policies/{quote(named)}")

    def policies(self) -> Iterator[JsonObject]:
        """All policies without their rules, those that ship first, page by page.

        Examples
        --------
        >>> [policy["name"] for policy in client.policies()]
        ['spinal-default/2', 'acme-release/1']
        """
        return self._pages("/v1/policies", {})

    def delete_policy(self, named: str) -> None:
        """Delete a policy that no audit names; raises PolicyInUse where one does.

        Examples
        --------
        >>> client.delete_policy("acme-release/1")
        """
        self._send("DELETE", f"/v1/policies/{quote(named)}")
