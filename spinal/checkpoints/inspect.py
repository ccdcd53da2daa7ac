"""Everything that a second of looking at files can tell about a checkpoint. No torch.

The API checks submissions with it, workers check again before they load.
"""

import json
from dataclasses import replace

from spinal.checkpoints.adapter import check_adapter
from spinal.checkpoints.architecture import check_architecture
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.configuration import check_against_headers
from spinal.checkpoints.files import CONFIG
from spinal.checkpoints.shards import check_shards
from spinal.checkpoints.stored import check_not_empty, stored_tensors
from spinal.checkpoints.tensors import read_header, scan_non_finite
from spinal.checkpoints.tokenizer import known_ids
from spinal.checkpoints.unchanged import Unchanged

SCAN_BYTES = 256 * 1024 * 1024
"""Checkpoints up to this size are scanned for NaN when inspected; larger ones when loaded."""


_sound = Unchanged(1024)


def inspect(checkpoint: Checkpoint) -> None:
    """Everything that a second of looking at files can tell; returns silently or raises. What passed is not read again
    by this process until a listed file changes.

    Raises ArchitectureUnsupported, ConfigInvalid, WeightsMissing, WeightsCorrupt, QuantizationUnsupported,
    NonFiniteWeights, TokenizerInvalid, AdapterInvalid, ModelPathRefused.
    """
    if checkpoint.base is not None:
        # The tokenizer that is read is the base's, unless another is lent.
        inspect(replace(checkpoint.base, lender=checkpoint.lender))
    # Of what lives elsewhere the folder, and with it the roots, are new each time, and its files are the same.
    places = checkpoint.roots if checkpoint.copy is None else checkpoint.copy.store
    known = (checkpoint.base is None, checkpoint.files, places, json.dumps(checkpoint.config, sort_keys=True))
    # The configuration was read when the checkpoint was resolved.
    paths = [checkpoint.path / name for name in checkpoint.files.names if name != CONFIG]
    _sound.check(known, lambda: paths, lambda: _inspect_files(checkpoint))
    known_ids(checkpoint)


def _inspect_files(checkpoint: Checkpoint) -> None:
    if checkpoint.base is None:
        check_architecture(checkpoint.config, checkpoint.source)
    files = checkpoint.weight_files()
    headers = {file: read_header(file, checkpoint.source, checkpoint.roots) for file in files}
    check_shards(checkpoint, headers)
    if checkpoint.base is not None:
        check_adapter(checkpoint, headers[files[0]])
    else:
        tensors = {name: entry for header in headers.values() for name, entry in header.items()}
        check_not_empty(tensors, checkpoint.source)
        check_against_headers(checkpoint, headers.values())
        stored_tensors(checkpoint.config, tensors, checkpoint.source)
    whole = checkpoint.copy is None or checkpoint.copy.whole
    if whole and sum(file.stat().st_size for file in files) <= SCAN_BYTES:
        for file, header in headers.items():
            scan_non_finite(file, header, checkpoint.source, checkpoint.roots)
