"""What :class:`spinal.Client` does with prompt sets."""

from collections.abc import Sequence

from spinal.connection import Calls, JsonObject
from spinal.errors import BodyTooLarge, InternalError, StoredPromptSetNotFound
from spinal.prompts.sets import PromptSet
from spinal.prompts.stored import LINES, NAME, check_name, check_storable, to_lines


class PromptCalls(Calls):
    """Prompt sets of the service: stored once, measured on by audits."""

    def store_prompt_set(
        self, prompts: Sequence[str | list[dict[str, str]] | JsonObject], *, name: str | None = None
    ) -> JsonObject:
        """Store a prompt set of texts, of messages of chats, or of records; its digest is what :meth:`submit` takes.

        A record is ``{"prompt": ...}`` or ``{"messages": ...}`` with what else is known of it: its own answer
        (``continuation``), an answer that was not preferred to that (``rejected``), openings of an answer that refuses
        (``refusal``), and its ``category``.

        Examples
        --------
        >>> client.store_prompt_set(["How do I reset a password?"], name="one")["count"]
        1
        """
        body = {"name": name, "prompts": [_prompt_in(prompt) for prompt in prompts]}
        return self._json("POST", "/v1/prompt-sets", json=body)

    def push_prompt_set(self, prompts: PromptSet, *, name: str | None = None) -> JsonObject:
        """Store a prompt set that was read here, for example by ``spinal.prompts.load.load_prompts``; stored twice it
        is the same set. What the service would refuse for its size or its name is refused before it is sent.

        Examples
        --------
        >>> client.push_prompt_set(load_prompts("prompts.jsonl"), name="mine")["name"]
        'mine'
        """
        check_storable(prompts)
        check_name(name, prompts)
        body = to_lines(prompts)
        most = self._json("GET", "/v1/prompt-sets", params={"limit": 1}).get("limits", {}).get("bytes")
        if most is not None and len(body) > most:
            raise BodyTooLarge(
                f"the prompts are {len(body)} bytes of JSON lines, and this service takes {most}",
                hint="push a part of them, or ask for a larger SPINAL_MAX_BODY_BYTES",
            )
        params = {} if name is None else {"name": name}
        stored = self._json("POST", "/v1/prompt-sets", content=body, params=params, headers={"Content-Type": LINES[0]})
        if stored["digest"] != prompts.digest:
            raise InternalError(
                f"the service has stored other prompts ({stored['digest']}) than were sent ({prompts.digest})",
                hint="is it of the same release? compare spinal --version with its openapi.json",
            )
        return stored

    def prompt_set(self, name: str, *, prompts: int = 20) -> JsonObject:
        """A prompt set by name or digest, with the first of its prompts.

        Examples
        --------
        >>> client.prompt_set("mine", prompts=1)["prompts"][0]["prompt"]
        'How do I reset a password?'
        """
        if NAME.match(name) is None:
            raise StoredPromptSetNotFound(f"no prompt set {name}", hint="`spinal prompts list` shows them")
        return self._json("GET", f"/v1/prompt-sets/{name}", params={"prompts": prompts})

    def prompt_sets(self, *, limit: int = 50) -> list[JsonObject]:
        """The built-in prompt sets, and the newest that were stored (``limit`` at most, up to 200).

        Examples
        --------
        >>> [prompts["name"] for prompts in client.prompt_sets()]
        ['hh-harmless-512']
        """
        found: list[JsonObject] = self._json("GET", "/v1/prompt-sets", params={"limit": limit})["items"]
        return found


def _prompt_in(prompt: str | list[dict[str, str]] | JsonObject) -> JsonObject:
    if isinstance(prompt, dict):
        return prompt
    return {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
