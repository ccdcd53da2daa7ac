"""A checkpoint folder as a value: where it lies, what its configuration says. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinal.checkpoints.architecture import architecture_of, shape_of

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

    @property
    def whole(self) -> "Checkpoint":
        """The checkpoint with the model's own configuration and tokenizer: this one, or the base of an adapter."""
        return self.base or self

    @property
    def architecture(self) -> str:
        return architecture_of(self.config)

    @property
    def n_layers(self) -> int | None:
        return shape_of(self.config).n_layers

    @property
    def hidden_size(self) -> int | None:
        return shape_of(self.config).hidden_size

    @property
    def vocab_size(self) -> int | None:
        return shape_of(self.config).vocab_size

    @property
    def max_positions(self) -> int | None:
        """Longest prompt in tokens, rotary scaling included."""
        return shape_of(self.config).max_positions

    def weight_files(self) -> list[Path]:
        """The safetensors files that hold the weights, in name order."""
        return sorted(path for path in self.path.glob("*.safetensors") if path.is_file())
