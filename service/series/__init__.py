"""Series: the checkpoints of one training run against one reference, each an audit of its own."""
