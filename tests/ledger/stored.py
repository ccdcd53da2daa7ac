"""Results that a ledger takes for true: documents whose digests are those of what they say."""

from sqlalchemy.orm import Session

from service.traces.store import store_trace
from spinal.documents.editions import PRESENT
from spinal.documents.trace import Trace, trace_digest
from tests.support import fabricated


def made_trace(weights: str = "a", *, blocks: int = 2) -> Trace:
    """A trace of weights whose digest is that letter, 64 times."""
    digest, prompts = weights * 64, "b" * 64
    made = fabricated.trace("local:x", blocks, 8, digest=prompts)
    return made.model_copy(
        update={
            "digest": trace_digest(digest, prompts, made.fingerprint, PRESENT.engine),
            "model": made.model.model_copy(update={"weights_digest": digest}),
            "engine": made.engine.model_copy(update={"version": PRESENT.engine}),
        }
    )


def stored_trace(session: Session, weights: str = "a", *, blocks: int = 2, uri: str | None = None) -> str:
    """Store such a trace; returns its digest."""
    trace = made_trace(weights, blocks=blocks)
    store_trace(session, trace, capture_uri=uri or f"file:{weights}", capture_bytes=7)
    return trace.digest
