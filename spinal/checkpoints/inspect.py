"""Everything that a second of looking at files can tell about a checkpoint. No torch.

The API checks submissions with it, workers check again before they load.
"""

import json
import re
from dataclasses import replace

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.configuration import check_against_headers
from spinal.checkpoints.shards import check_shards
from spinal.checkpoints.tensors import read_header, scan_non_finite
from spinal.checkpoints.tokenizer import known_ids
from spinal.checkpoints.unchanged import Unchanged
from spinal.errors import (
    ArchitectureUnsupported,
    ConfigInvalid,
)

SCAN_BYTES = 256 * 1024 * 1024
"""Checkpoints up to this size are scanned for NaN when inspected; larger ones when loaded."""
CAUSAL = re.compile(r"(ForCausalLM|LMHeadModel)$")


_sound = Unchanged(1024)


def inspect(checkpoint: Checkpoint) -> None:
    """Everything that a second of looking at files can tell; returns silently or raises. What passed is not read again
    by this process until a listed file changes.

    Raises ArchitectureUnsupported, ConfigInvalid, WeightsMissing, WeightsCorrupt, NonFiniteWeights, TokenizerInvalid,
    ModelPathRefused.
    """
    if checkpoint.base is not None:
        # The tokenizer that is read is the base's, unless another is lent.
        inspect(replace(checkpoint.base, lender=checkpoint.lender))
    known = (checkpoint.base is None, checkpoint.files, json.dumps(checkpoint.config, sort_keys=True))
    paths = [checkpoint.path / name for name in checkpoint.files.names]
    _sound.check(known, lambda: paths, lambda: _inspect_files(checkpoint))
    known_ids(checkpoint)


def _inspect_files(checkpoint: Checkpoint) -> None:
    if checkpoint.base is None:
        _check_architecture(checkpoint)
    files = checkpoint.weight_files()
    headers = {file: read_header(file, checkpoint.source, checkpoint.roots) for file in files}
    check_shards(checkpoint, headers)
    if checkpoint.base is None:
        check_against_headers(checkpoint, headers.values())
    if sum(file.stat().st_size for file in files) <= SCAN_BYTES:
        for file, header in headers.items():
            scan_non_finite(file, header, checkpoint.source, checkpoint.roots)


def _check_architecture(checkpoint: Checkpoint) -> None:
    config, source = checkpoint.config, checkpoint.source
    if config.get("is_encoder_decoder"):
        raise ArchitectureUnsupported(
            f"{source} is an encoder-decoder ({checkpoint.architecture or config['model_type']})",
            hint="only decoder-only language models have a depth trace",
        )
    if not CAUSAL.search(checkpoint.architecture):
        raise ArchitectureUnsupported(
            f"{source}: architecture {checkpoint.architecture or 'unnamed'!r} is not a causal language model",
            hint="the first entry of config.json 'architectures' must end in ForCausalLM or LMHeadModel",
        )
    for name in ("n_layers", "hidden_size", "vocab_size"):
        value = getattr(checkpoint, name)
        if value is None or value < 1:
            raise ConfigInvalid(f"{source}: config.json gives no usable {name}")
