"""Pure analysis: numpy arrays and documents in, documents out. No torch, no I/O."""
