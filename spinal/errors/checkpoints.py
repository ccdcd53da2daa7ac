"""What can be wrong with a checkpoint, or with the name of one."""

from spinal.errors.base import ExitCode, SpinalError


class ModelNotFound(SpinalError):
    code, title, status, exit_code = "model_not_found", "Model not found", 422, ExitCode.USAGE


class ModelReferenceInvalid(SpinalError):
    code, title, status, exit_code = "model_reference_invalid", "Model reference not understood", 422, ExitCode.USAGE


class ModelPathRefused(SpinalError):
    code, title, status, exit_code = "model_path_refused", "Path outside the allowed roots", 422, ExitCode.USAGE


class NoModelRoots(ModelPathRefused):
    """No path lies below a root where there is none: of whoever set the service up, not of the request."""

    code, title = "no_model_roots", "No folder of models is set up"


class ModelChanged(SpinalError):
    code, title, status = "model_changed", "Checkpoint changed after submission", 409


class WeightsDigestMismatch(SpinalError):
    code, title, status = "weights_digest_mismatch", "Checkpoint holds another content than expected", 409


class ConfigInvalid(SpinalError):
    code, title, status = "config_invalid", "config.json missing or unreadable", 422


class WeightsMissing(SpinalError):
    code, title, status = "weights_missing", "No safetensors weights", 422


class WeightsCorrupt(SpinalError):
    code, title, status = "weights_corrupt", "Weights truncated or corrupt", 422


class QuantizationUnsupported(SpinalError):
    code, title, status = "quantization_unsupported", "Quantised weights cannot be read exactly", 422


class PickleWeightsRefused(SpinalError):
    code, title, status = "pickle_weights_refused", "Pickle weights are not read", 422


class RemoteCodeRefused(SpinalError):
    code, title, status = "remote_code_refused", "Checkpoint needs its own code", 422


class NonFiniteWeights(SpinalError):
    code, title, status = "non_finite_weights", "Weights hold NaN or infinity", 422


class ArchitectureUnsupported(SpinalError):
    code, title, status = "architecture_unsupported", "Architecture not supported", 422


class TokenizerInvalid(SpinalError):
    code, title, status = "tokenizer_invalid", "Tokenizer missing or unreadable", 422


class TokenizerMismatch(SpinalError):
    code, title, status = "tokenizer_mismatch", "The pair reads the prompts as different tokens", 422


class PairMismatch(SpinalError):
    code, title, status = "pair_mismatch", "The pair does not share a shape", 422


class AdapterInvalid(SpinalError):
    code, title, status = "adapter_invalid", "Adapter unreadable or without its base", 422


class InspectionExceeded(SpinalError):
    """Looking at the files of a checkpoint took longer, or more memory, than any model needs."""

    code, title, status = "inspection_exceeded", "Checkpoint beyond the bounds of an inspection", 422
