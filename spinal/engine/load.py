"""From a checkpoint folder to a model in evaluation mode and its tokenizer. Safetensors only, no remote code."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.held import Held
from spinal.engine.accounting import SAVE, account, require_complete
from spinal.engine.adapters import adapted_copy, merge_adapter
from spinal.engine.classes import class_remarks, opening_class
from spinal.engine.failures import callers_fault
from spinal.engine.quiet import quiet
from spinal.engine.slices import require_finite
from spinal.engine.stored import FLOATS, Reading, StoredTensors
from spinal.engine.stream import BlockStore, open_streamed
from spinal.engine.tokenizer import Tokenizer, load_tokenizer
from spinal.errors import (
    ArchitectureUnsupported,
    ConfigInvalid,
    RemoteCodeRefused,
    SpinalError,
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
    remarks: tuple[str, ...] = ()
    """What a reader of the numbers should know of how the weights were read."""

    @property
    def dtype(self) -> torch.dtype:
        """That of the blocks."""
        return self.model.dtype


def load(checkpoint: Checkpoint, profile: MeasurementProfile, device: str, *, stream: bool = False) -> LoadedModel:
    """Load ``checkpoint`` (an adapter is merged into its base). ``stream`` leaves the blocks on disk where that is
    possible: same numbers, memory for one block instead of all.

    Raises RemoteCodeRefused, ArchitectureUnsupported, ConfigInvalid, QuantizationUnsupported, WeightsCorrupt,
    NonFiniteWeights, TokenizerInvalid, AdapterInvalid.
    """
    base = checkpoint.whole
    _check_type_is_known(base)
    target = torch.device(device)
    with quiet():
        tokenizer = load_tokenizer(checkpoint.tokenizing)
        config, tensors = _load_config(base), StoredTensors(base)
        chosen, config = opening_class(config, base.architecture, base.source)
        said = (*tensors.remarks, *class_remarks(chosen, base.config))
        dtype = _dtype(config, tensors, profile)
        if stream and checkpoint.base is None and base.n_layers is not None:
            streamed = open_streamed(chosen, config, tensors, base.n_layers, dtype, target)
            if streamed is not None:
                model, store, remarks = streamed
                return LoadedModel(checkpoint, model, tokenizer, target, store, (*said, *remarks))
        model, remarks = _load_whole(chosen, config, tensors, dtype)
        torch.nn.Module.to(model, target)
        if checkpoint.base is not None:
            model = merge_adapter(model, checkpoint)
    return _ready(checkpoint, model, tokenizer, target, (*said, *remarks))


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
    with quiet():
        model = adapted_copy(base.model, checkpoint)
    return _ready(checkpoint, model, base.tokenizer, base.device, base.remarks)


def _ready(
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    device: torch.device,
    remarks: tuple[str, ...],
) -> LoadedModel:
    for name, tensor in model.state_dict().items():
        require_finite(tensor, name, checkpoint.source)
    model.eval()
    model.requires_grad_(False)
    return LoadedModel(checkpoint, model, tokenizer, device, remarks=remarks)


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


def _load_config(checkpoint: Checkpoint) -> PretrainedConfig:
    """The configuration without what it says of quantization and of code: weights are read as floats, and run by
    transformers' own classes."""
    with callers_fault(lambda why: _unusable_config(checkpoint.source, why)):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            checkpoint.path, local_files_only=True, trust_remote_code=False
        )
        for holder in (config, config.get_text_config()):
            for name in ("quantization_config", "compression_config", "fusion_config"):
                if hasattr(holder, name):
                    delattr(holder, name)
    return config


def _unusable_config(source: str, why: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"{source}: config.json cannot be used ({why})", hint="save the model again with save_pretrained()"
    )


def _dtype(config: PretrainedConfig, tensors: StoredTensors, profile: MeasurementProfile) -> torch.dtype:
    """float32, or under the profile ``checkpoint`` what the configuration names, else what the files hold."""
    if profile.dtype == "float32":
        return torch.float32
    named = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return next((dtype for dtype in FLOATS.values() if dtype == named), None) or tensors.dtype()


def _load_whole(
    chosen: type[PreTrainedModel], config: PretrainedConfig, tensors: StoredTensors, dtype: torch.dtype
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model and remarks on stored tensors that it does not use. transformers converts, fuses and ties; it reads
    through ``tensors``, so that what it did not read is known."""
    reading = Reading(tensors)

    def unreadable(why: str) -> SpinalError:
        if "Meta tensors" in why:
            why = "tensors that config.json ties are of other shapes than it says"
        if "conversion" in why:
            why = "tensors that are fused or split when loaded are missing or of another shape than config.json says"
        return WeightsCorrupt(f"{tensors.source}: weights cannot be loaded ({why})", hint=SAVE)

    with callers_fault(unreadable), reading.own_failures():
        made: tuple[PreTrainedModel, dict[str, Any]] = chosen.from_pretrained(  # type: ignore[assignment]  # output_loading_info makes it a pair
            None,
            config=config,
            state_dict=reading.waiting,
            dtype=dtype,
            ignore_mismatched_sizes=True,  # reported below, with names
            output_loading_info=True,
            local_files_only=True,
        )
    model, info = made
    mismatched = [str(item[0]) if isinstance(item, tuple) else str(item) for item in info["mismatched_keys"]]
    require_complete(info["missing_keys"], mismatched, tensors.names - reading.taken, tensors.source)
    return model, account(model, tensors, reading.taken)
