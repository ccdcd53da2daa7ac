"""Wire models, one file per noun."""
