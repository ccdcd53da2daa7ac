"""A checkpoint folder as a value: where it lies, what its configuration says. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder in Hugging Face layout, resolved; ``base`` is set for a PEFT adapter."""

    path: Path
    source: str
    """The reference as published, e.g. ``local:`` and the name below its root; no path of the machine."""
    config: dict[str, Any]
    revision: str | None = None
    """Commit, version or tag it is pinned to, where its source has one."""
    base: "Checkpoint | None" = None
    lender: "Checkpoint | None" = None
    """Whose tokenizer reads the prompts, where it is not the checkpoint's own; only the tokenizer of it is used."""
    vocabulary: int | None = None
    """Ids 0..n-1 are read, where those are fewer than the checkpoint's own: what the sides of a comparison share."""
    remarks: tuple[str, ...] = ()
    """What a reader of its trace has to know about how it was found."""

    @property
    def whole(self) -> "Checkpoint":
        """The checkpoint with the model's own configuration and tokenizer: this one, or the base of an adapter."""
        return self.base or self

    @property
    def tokenizing(self) -> "Checkpoint":
        """Where the tokenizer lies that reads the prompts."""
        return self.lender or self.whole

    @property
    def text_config(self) -> dict[str, Any]:
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def architecture(self) -> str:
        names = self.config.get("architectures") or []
        return str(names[0]) if names else ""

    @property
    def n_layers(self) -> int | None:
        return _first_int(self.text_config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")

    @property
    def hidden_size(self) -> int | None:
        return _first_int(self.text_config, "hidden_size", "n_embd", "d_model")

    @property
    def vocab_size(self) -> int | None:
        return _first_int(self.text_config, "vocab_size")

    @property
    def max_positions(self) -> int | None:
        return _first_int(self.text_config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length")

    def weight_files(self) -> list[Path]:
        """The safetensors files that hold the weights, in name order."""
        return sorted(path for path in self.path.glob("*.safetensors") if path.is_file())


def _first_int(config: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None
