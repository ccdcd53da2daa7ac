"""A small DPO run with TRL, the same every time."""

from pathlib import Path
from typing import Any

from tests.support.places import EXAMPLES

SFT = EXAMPLES / "checkpoints" / "sft"
PAIRS = 16


def dpo_trainer(out: Path, callbacks: list[Any], **arguments: Any) -> Any:
    """A trainer of ten steps that saves every second one and keeps one checkpoint."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    pairs = [
        {
            "prompt": f"Human: how do I plant tree number {n}?\n\nAssistant:",
            "chosen": f" Dig a hole of {n} feet.",
            "rejected": f" I would not know how, and neither would tree number {n}, I am afraid.",
        }
        for n in range(PAIRS)
    ]
    chosen: dict[str, Any] = {
        "max_steps": 10, "save_steps": 2, "save_total_limit": 1, "logging_steps": 1, "learning_rate": 2e-4,
        "per_device_train_batch_size": 2, "max_length": 64, "report_to": "none", "seed": 0, "use_cpu": True,
        "bf16": False, "fp16": False, "gradient_checkpointing": False, "disable_tqdm": True,
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    return DPOTrainer(
        AutoModelForCausalLM.from_pretrained(SFT, dtype="float32"),
        args=DPOConfig(output_dir=str(out), **(chosen | arguments)),
        train_dataset=Dataset.from_list(pairs),
        processing_class=AutoTokenizer.from_pretrained(SFT),
        callbacks=callbacks,
    )


TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second")


def logged(trainer: Any) -> list[dict[str, Any]]:
    """All that training itself logged, in order: losses, norms of gradients, rewards; without times, which no two runs
    share."""
    return [
        {name: value for name, value in entry.items() if name not in TIMES}
        for entry in trainer.state.log_history
        if not any(name.startswith("spinal/") for name in entry)
    ]
