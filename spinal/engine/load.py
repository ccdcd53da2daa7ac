"""From a checkpoint folder to a model in evaluation mode and its tokenizer. Safetensors only, no remote code."""

import contextlib
import copy
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.held import Held
from spinal.engine.slices import require_finite
from spinal.engine.stream import BlockStore, open_streamed
from spinal.engine.tokenizer import Tokenizer, load_tokenizer
from spinal.errors import (
    AdapterInvalid,
    ArchitectureUnsupported,
    RemoteCodeRefused,
    WeightsCorrupt,
)
from spinal.profile import MeasurementProfile


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to be measured: eval mode, no gradients, finite weights."""

    checkpoint: Checkpoint
    model: PreTrainedModel
    """Merged, where the checkpoint is an adapter."""
    tokenizer: Tokenizer
    device: torch.device
    store: BlockStore | None = None
    """Set where the blocks are read from disk one at a time."""

    @property
    def dtype(self) -> torch.dtype:
        """That of the blocks."""
        return self.model.dtype


def load(checkpoint: Checkpoint, profile: MeasurementProfile, device: str, *, stream: bool = False) -> LoadedModel:
    """Load ``checkpoint`` (an adapter is merged into its base). ``stream`` leaves the blocks on disk where that is
    possible: same numbers, memory for one block instead of all.

    Raises RemoteCodeRefused, ArchitectureUnsupported, WeightsCorrupt, NonFiniteWeights, TokenizerInvalid,
    AdapterInvalid.
    """
    base = checkpoint.whole
    _check_type_is_known(base)
    with _quiet():
        tokenizer = load_tokenizer(checkpoint.tokenizing)
        streamed = open_streamed(checkpoint, profile, torch.device(device)) if stream else None
        if streamed is not None:
            return LoadedModel(checkpoint, streamed[0], tokenizer, torch.device(device), streamed[1])
        model = _load_weights(base, torch.float32 if profile.dtype == "float32" else "auto")
        torch.nn.Module.to(model, torch.device(device))
        if checkpoint.base is not None:
            model = _merge_adapter(model, checkpoint)
    return _ready(checkpoint, model, tokenizer, torch.device(device))


def load_pair(
    reference: Checkpoint, candidate: Checkpoint, profile: MeasurementProfile, device: str, *, stream: bool = False
) -> tuple[LoadedModel, LoadedModel]:
    """Load two checkpoints; what both are made of (a base and its adapter, two adapters of one base) is read once.

    An adapted model shares every tensor that its adapter leaves alone with the base, which stays bit for bit as it
    was loaded. Raises the errors of :func:`load`.
    """
    bases: dict[Hashable, LoadedModel] = {}
    adapters = reference.base is not None or candidate.base is not None

    def opened(side: Checkpoint) -> LoadedModel:
        files = _files_of(side.whole)
        if files not in bases:
            lent = replace(side.whole, lender=side.lender)
            bases[files] = load(lent, profile, device, stream=stream and not adapters)
        made = bases[files]
        if side.base is not None:
            return _adapted(made, side)
        # The same model, read as this side is: an adapter's base is read as far as its own ids go.
        return made if made.checkpoint == side else replace(made, checkpoint=side)

    return opened(reference), opened(candidate)


def _files_of(checkpoint: Checkpoint) -> Hashable:
    """What the files of one folder have in common, however often they are held open."""
    return checkpoint.held.stamps() if isinstance(checkpoint.held, Held) else checkpoint.path


def _adapted(base: LoadedModel, checkpoint: Checkpoint) -> LoadedModel:
    # Fresh Parameter objects on the same storage: a safe merge replaces the tensors it changes, never writes into
    # them, so that the copy costs what the adapter touches and the base keeps its own.
    shared: dict[int, Any] = {id(p): torch.nn.Parameter(p.data, requires_grad=False) for p in base.model.parameters()}
    shared |= {id(buffer): buffer for buffer in base.model.buffers()}
    with _quiet():
        model = _merge_adapter(copy.deepcopy(base.model, shared), checkpoint)
    return _ready(checkpoint, model, base.tokenizer, base.device)


def _ready(checkpoint: Checkpoint, model: PreTrainedModel, tokenizer: Tokenizer, device: torch.device) -> LoadedModel:
    for name, tensor in model.state_dict().items():
        require_finite(tensor, name, checkpoint.source)
    model.eval()
    model.requires_grad_(False)
    return LoadedModel(checkpoint, model, tokenizer, device)


def _check_type_is_known(checkpoint: Checkpoint) -> None:
    model_type = checkpoint.config.get("model_type")
    if model_type in CONFIG_MAPPING:
        return
    if checkpoint.config.get("auto_map"):
        raise RemoteCodeRefused(
            f"{checkpoint.source}: model type {model_type!r} needs Python code shipped with the checkpoint",
            hint="only architectures that transformers itself implements are run",
        )
    raise ArchitectureUnsupported(
        f"{checkpoint.source}: transformers {transformers.__version__} does not know model type {model_type!r}",
        hint="a newer transformers may know it",
    )


def _load_weights(checkpoint: Checkpoint, dtype: Any) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True, trust_remote_code=False)
        loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]  # output_loading_info makes it a pair
            checkpoint.path,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, info = loaded
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise WeightsCorrupt(f"{checkpoint.source}: weights cannot be loaded ({_first_line(error)})") from error
    missing = sorted(info.get("missing_keys") or [])
    mismatched = [str(item[0]) if isinstance(item, tuple) else str(item) for item in info.get("mismatched_keys") or []]
    # transformers fills such tensors with random numbers; a measurement of those would be fiction.
    for names, what in ((missing, "missing"), (sorted(mismatched), "of another shape than config.json says")):
        if names:
            raise WeightsCorrupt(
                f"{checkpoint.source}: {len(names)} tensors are {what}, first {names[0]}",
                hint="save the whole model with save_pretrained()",
            )
    return model


def _merge_adapter(model: PreTrainedModel, checkpoint: Checkpoint) -> PreTrainedModel:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, checkpoint.path, local_files_only=True).merge_and_unload(
            safe_merge=True
        )
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise AdapterInvalid(f"{checkpoint.source}: adapter cannot be applied ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or advice of transformers: progress is reported by the engine itself."""
    from transformers.utils import logging as hf_logging

    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        hf_logging.enable_progress_bar()
