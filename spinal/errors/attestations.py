"""How attestations are refused: to whoever asks for one, whoever shows one, and whoever sends a signed model."""

from spinal.errors.base import ExitCode, SpinalError


class NoAttestationKey(SpinalError):
    code, title, status = "no_attestation_key", "Service has no key that signs attestations", 409


class AttestationKeyFailed(SpinalError):
    """The key cannot be used now, or not as it is described."""

    code, title, status = "attestation_key_failed", "Key of attestations cannot be used", 503


class NotAttestable(SpinalError):
    """Nothing can be said of the audit that anybody could check."""

    code, title, status = "not_attestable", "Audit cannot be attested", 409


class VerdictNotPass(SpinalError):
    """The absence of the attestation is the answer."""

    code, title, status = "verdict_not_pass", "Verdict is not pass: no passing attestation", 404


class PassRestsOnWaiver(SpinalError):
    code, title, status = "pass_rests_on_waiver", "Verdict passes by a waiver: no passing attestation", 404


class AttestationInvalid(SpinalError):
    code, title, status, exit_code = "attestation_invalid", "Attestation not understood", 422, ExitCode.USAGE


class AttestationRefused(SpinalError):
    """It is understood, and does not say or hold what was asked for."""

    code, title, status, exit_code = "attestation_refused", "Attestation does not hold", 422, ExitCode.FAILED


class ModelSignatureInvalid(SpinalError):
    code, title, status = "model_signature_invalid", "Signature of the model not understood", 422


class ModelSignatureUntrusted(SpinalError):
    code, title, status = "model_signature_untrusted", "Model is not signed by a trusted key", 422


class ModelSignatureMismatch(SpinalError):
    code, title, status = "model_signature_mismatch", "Files of the model are not those that were signed", 422
