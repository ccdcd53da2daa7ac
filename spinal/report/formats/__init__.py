"""How a document is written: one module for each format."""
