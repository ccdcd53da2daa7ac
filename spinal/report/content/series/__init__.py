"""What a report says of a training run: the answer, its signals over the steps, and its checkpoints."""
