"""From what was read, wherever it was read, to a prompt set, with a count of what was left out."""

from collections import Counter
from dataclasses import dataclass, field

from spinal.errors import PromptSetEmpty
from spinal.prompts.records import Entry
from spinal.prompts.sets import Prompt, PromptSet


@dataclass
class Gathered:
    """What was found where prompts come from, and what was left out."""

    entries: list[Entry] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Why -> how many."""
    remarks: list[str] = field(default_factory=list)

    def add(self, entry: Entry | None) -> None:
        """None counts as left out."""
        if entry is None:
            self.left_out["with no prompt and answer to tell apart"] += 1
        else:
            self.entries.append(entry)

    def prompt_set(self, *, name: str | None, origin: str) -> PromptSet:
        """Without blank prompts and exact duplicates (the first occurrence wins). ``origin`` is what errors and
        remarks name. Raises PromptSetEmpty, PromptSetInvalid."""
        seen: dict[Prompt, Entry] = {}
        left_out = Counter(self.left_out)
        for entry in self.entries:
            prompt = entry.prompt
            if not (prompt.strip() if isinstance(prompt, str) else prompt):
                left_out["blank"] += 1
            elif prompt in seen:
                left_out["seen before"] += 1
            else:
                seen[prompt] = entry
        if not seen:
            raise PromptSetEmpty(f"{origin} holds no usable prompt", hint="give at least one non-empty prompt")
        counts = [f"{count} {why}" for why, count in left_out.items() if count]
        if counts:
            self.remarks.append(f"{origin}: left out {left_out.total()} ({', '.join(counts)})")
        kept = list(seen.values())
        return PromptSet(
            tuple(seen),
            tuple(entry.continuation if _says(entry.continuation) else None for entry in kept),
            name,
            rejected=tuple(entry.rejected if _says(entry.rejected) else None for entry in kept),
            refusals=tuple(entry.refusals for entry in kept),
            categories=tuple(entry.category for entry in kept),
            remarks=tuple(self.remarks),
        )


def _says(text: str | None) -> bool:
    return bool(text and text.strip())
